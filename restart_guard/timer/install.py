"""Installs and removes the timer: a block in the user's crontab, a file in /etc/cron.d or systemd units. First a plan,
then the change."""

import difflib
import os
import re
import shlex
import subprocess
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

from restart_guard import clock, paths
from restart_guard.config.load import default_state_dir
from restart_guard.config.options import Config
from restart_guard.durations import span
from restart_guard.errors import GuardError, UsageError
from restart_guard.host import process_table
from restart_guard.host.files import Files
from restart_guard.host.identity import Identity
from restart_guard.lock import held
from restart_guard.timer import crontab, systemd
from restart_guard.timer.crontab_block import (
    assignments,
    beside_block,
    bites,
    block_names,
    line,
    lines_of,
    path_above,
    with_block,
    without_block,
)
from restart_guard.timer.jobs import Job, command, jobs, log_dir
from restart_guard.timer.systemd_unit import units

BACKENDS = ("cron", "cron.d", "systemd")
_CRON_D = Path("/etc/cron.d")
_MACHINE_ID = Path("/etc/machine-id")
_LEAST_DELAY_S = 60.0
_CRON_DAEMONS = {"cron", "crond", "fcron", "busybox", "supercronic", "bcron-sched"}
_SYSTEMD_CRON = Path("/run/systemd/generator/cron.target.wants")
_ENVIRONMENT = Path("/etc/environment")  # pam_env(8) gives it to Debian's cron jobs
_TRIAL_S = 30.0


class Change(NamedTuple):
    """The old and new content of a file, or of the user's crontab (None). Without content the file does not exist."""

    path: Path | None
    old: bytes
    new: bytes


class Plan(NamedTuple):
    """The changes, the systemd units to start or stop by name, and notes for the operator.

    ``logs`` is the folder of the jobs' logs if they are installed, None if they are removed.
    """

    changes: list[Change]
    start: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    logs: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def diff(self) -> list[str]:
        """The changes as diff -u shows them; those of the crontab without file names."""
        lines: list[str] = []
        for path, *sides in self.changes:
            old, new = (side.decode(errors="replace").splitlines() for side in sides)
            shown = list(difflib.unified_diff(old, new, str(path), str(path), lineterm="", n=1))
            lines += shown[2:] if path is None else shown
        return lines

    @property
    def where(self) -> str:
        return ", ".join("the crontab" if change.path is None else str(change.path) for change in self.changes)


def crontab_lines(config: Config, *, watch: bool, random_delay_s: float, user: str = "") -> list[str]:
    """The jobs as lines of a crontab. Raises GuardError."""
    return [
        line(job, schedule=_delayed(config, job, random_delay_s), user=user)
        for job in jobs(config, watch=watch, delay_s=random_delay_s)
    ]


def _delayed(config: Config, job: Job, most_s: float) -> str:
    """The weekly job's schedule, later by a part of ``most_s`` that is always the same on a host. Raises UsageError."""
    if not job.weekly or not most_s:
        return job.schedule
    fields = job.schedule.split()
    if not (fields[0].isdecimal() and fields[1].isdecimal()):
        raise UsageError(f"--random-delay needs a fixed minute and hour; the schedule of a check is {job.schedule}.")
    if int(fields[1]) * 60 + int(fields[0]) + most_s // 60 >= 24 * 60:
        raise UsageError(f"--random-delay {span(most_s)} could move {job.schedule} to another day: take less.")
    machine = _MACHINE_ID.read_bytes() if _MACHINE_ID.exists() else os.uname().nodename.encode()
    chosen = zlib.crc32(machine + os.fsencode(config.path)) % (int(most_s // 60) + 1)
    minute = int(fields[1]) * 60 + int(fields[0]) + chosen
    return " ".join([str(minute % 60), str(minute // 60), *fields[2:]])


def plan_install(config: Config, backend: str, *, watch: bool, random_delay_s: float) -> Plan:
    """The plan that installs our jobs.

    Raises GuardError if the crontab cannot be read or is damaged, or if our jobs are already installed by another
    backend.
    """
    if 0 < random_delay_s < _LEAST_DELAY_S:
        raise UsageError("--random-delay: expected at least 1m, since cron counts in minutes.")
    for other in BACKENDS:
        if other != backend and _is_there(config, other):
            raise GuardError(
                f"The timer is already installed by --backend {other}: run restart-guard uninstall-timer first."
            )
    plan = _plan_install(config, backend, watch=watch, random_delay_s=random_delay_s)
    if plan.changes:
        _try_out(config)
    return plan._replace(logs=log_dir(config), notes=tuple(_notes(config.path, plan)))


def _try_out(config: Config) -> None:
    """Run our own command once where there is as little as under cron: a job that cannot begin is heard by nobody.
    Raises GuardError."""
    words = command(config)[: -len(("-c", "FILE"))]
    home = str(paths.home())
    environ = {"PATH": search_path(config), "HOME": home, "SHELL": "/bin/sh"}
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", f"{shlex.join(words)} --version"],
            env=environ,
            cwd=home if paths.is_dir(home) else "/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TRIAL_S,
            check=False,
        )
        why = " ".join(done.stderr.split())[-300:] if done.returncode else ""
        failed = f"exit status {done.returncode}: {why}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        failed = str(error)
    if failed:
        raise GuardError(f"Under cron {shlex.join(words)} would not run ({failed}); nothing was changed.")


def _plan_install(config: Config, backend: str, *, watch: bool, random_delay_s: float) -> Plan:
    if backend == "cron":
        old = crontab.read()
        lines = crontab_lines(config, watch=watch, random_delay_s=random_delay_s)
        return _changed([Change(None, old, with_block(old, block_in(old, config.path), lines))])
    _require_root(backend)
    if backend == "cron.d":
        lines = crontab_lines(config, watch=watch, random_delay_s=random_delay_s, user="root")
        text = "\n".join([f"# restart-guard {block_name(config.path)}; see restart-guard install-timer", *lines, ""])
        return _changed([_replaced(cron_d_file(config.path), os.fsencode(text))])
    systemd.require()
    wanted = _units(config, watch=watch, random_delay_s=random_delay_s)
    folder, there = systemd.folder(os.environ), set(_unit_files(config.path))
    changes = [_replaced(folder / name, os.fsencode(text)) for name, text in wanted.items()]
    gone = sorted(there - {change.path for change in changes if change.path})
    changes += [_replaced(path, b"") for path in gone]
    start = tuple(name for name, text in wanted.items() if "[Install]" in text)
    changed = [change for change in changes if change.new != change.old]
    if not changed and all(any(folder.glob(f"*.wants/{name}")) for name in start):
        return Plan([])
    return _changed(changes, start, tuple(path.name for path in gone if _is_enabled(path.name)))


def plan_uninstall(path: Path) -> Plan:
    """The plan that removes our jobs, whichever backend has them; the config itself may be broken or gone.

    Raises GuardError if the crontab cannot be read or is damaged.
    """
    changes = []
    files = [file for file in (cron_d_file(path), *_unit_files(path)) if file.exists()]
    if not files or _has_block(path):
        old = crontab.read()
        changes.append(Change(None, old, without_block(old, block_in(old, path))))
    changes += [_replaced(file, b"") for file in files]
    enabled = [file.name for file in files if _is_enabled(file.name)]
    return _changed(changes, (), tuple(enabled))


def _is_enabled(unit: str) -> bool:
    """Whether a unit has a section [Install]: the timers, and the services that stay."""
    return unit.endswith((".timer", "-watch.service", "-standby.service"))


def _changed(changes: Iterable[Change], start: tuple[str, ...] = (), stop: tuple[str, ...] = ()) -> Plan:
    return Plan([change for change in changes if change.new != change.old], start, stop)


def _replaced(path: Path, new: bytes) -> Change:
    try:
        return Change(path, path.read_bytes() if path.exists() else b"", new)
    except OSError as error:
        raise GuardError(f"{path} cannot be read: {error.strerror}; nothing was changed.") from error


def _require_root(backend: str) -> None:
    if backend == "cron.d" and os.geteuid() != 0:
        raise GuardError("Only root can write to /etc/cron.d; --backend cron needs no root.")


def installed(config: Config) -> dict[str, list[str]]:
    """The backends that have our jobs, each with its lines in the crontab, or the names of its unit files.

    Raises GuardError if the crontab cannot be read or is damaged.
    """
    backends = {}
    elsewhere = cron_d_file(config.path).exists() or bool(_unit_files(config.path))
    try:
        content = crontab.read() if crontab.exists() else b""
    except GuardError:
        if not elsewhere:
            raise
        content = b""  # the other backends need no crontab(1), which may be forbidden (cron.allow)
    block = lines_of(content, block_in(content, config.path))
    if block is not None:
        backends["cron"] = block
    if cron_d_file(config.path).exists():
        backends["cron.d"] = os.fsdecode(cron_d_file(config.path).read_bytes()).splitlines()[1:]
    files = _unit_files(config.path)
    if files:
        backends["systemd"] = [path.name for path in files]
    return backends


def is_current(config: Config, backend: str, lines_found: Sequence[str]) -> bool:
    """Whether the installed lines are those that would be written now. A delay of the check is ignored, since the
    config does not know it."""
    watch = any(" watch " in one or "-watch." in one for one in lines_found)
    if backend == "systemd":
        folder = systemd.folder(os.environ)
        wanted = {folder / name: text for name, text in _units(config, watch=watch, random_delay_s=0).items()}
        return {path: _without_delay(path.read_text()) for path in _unit_files(config.path)} == wanted
    user = "root" if backend == "cron.d" else ""
    lines = crontab_lines(config, watch=watch, random_delay_s=0, user=user)
    weekly = [job.weekly for job in jobs(config, watch=watch)]
    lines_found = [re.sub(r" --late \S+", "", one) for one in lines_found]
    return len(lines_found) == len(lines) and all(
        one == other or (late and one.split()[2:] == other.split()[2:])
        for one, other, late in zip(lines_found, lines, weekly, strict=True)
    )


def _without_delay(text: str) -> str:
    return re.sub(r"^(?:RandomizedDelaySec|FixedRandomDelay)=.*\n", "", text, flags=re.MULTILINE)


def search_path(config: Config) -> str:
    """The PATH that the timer gives to our jobs, and with them to the targets: cron's, unless the crontab sets it."""
    return path_above(lines_above(config.path))


def lines_above(path: Path) -> list[str]:
    """The lines of the crontab above our block, or all without one; none if the crontab cannot be read."""
    try:
        content = crontab.read()
        return beside_block(content, block_in(content, path))[0]
    except GuardError:
        return []


def unset_variables(config: Config, backend: str) -> list[str]:
    """The environment variables of the config's secrets that the timer does not set for our jobs."""
    given = set(assignments(lines_above(config.path)) if backend == "cron" else ())
    if backend != "systemd":
        with suppress(OSError, UnicodeDecodeError):
            given |= set(assignments(_ENVIRONMENT.read_text().splitlines()))
    return [name for name in sorted(config.secret_variables) if name not in given]


def _has_block(path: Path) -> bool:
    """Whether the user's crontab has our block; not if it cannot be read."""
    try:
        content = crontab.read()
    except GuardError:
        return False
    return lines_of(content, block_in(content, path)) is not None


def _is_there(config: Config, backend: str) -> bool:
    if backend == "cron":
        return _has_block(config.path)
    return cron_d_file(config.path).exists() if backend == "cron.d" else bool(_unit_files(config.path))


def block_name(path: Path) -> str:
    """The name of a config's block, on one line. Two configs of a user have a block each."""
    return re.sub(r"\s", " ", str(path))


def block_in(content: bytes, path: Path) -> str:
    """The name of a config's block in a crontab: that of a block for the same file by another path (a link to the
    release in use, say), else its own."""
    own = block_name(path)
    names = block_names(content)
    if own not in names:
        for name in names:
            if paths.real(name) == paths.real(path):
                return name
    return own


def _slug(path: Path) -> str:
    """The same for file names, in which Debian's cron accepts only letters, digits, _ and -."""
    return f"restart-guard-{zlib.crc32(os.fsencode(path)):08x}"


def cron_d_file(path: Path) -> Path:
    return _CRON_D / _slug(path)


def _unit_files(path: Path) -> list[Path]:
    """The existing unit files of this config."""
    return sorted(systemd.folder(os.environ).glob(f"{_slug(path)}-*.*"))


def _units(config: Config, *, watch: bool, random_delay_s: float) -> dict[str, str]:
    """File names and contents. There is no catch-up job: a persistent timer makes up for missed runs itself."""
    files: dict[str, str] = {}
    for job in jobs(config, watch=watch):
        if not job.name.endswith("catch-up"):
            files |= units(
                job,
                f"{_slug(config.path)}-{job.name}",
                title=block_name(config.path),
                user_manager=os.geteuid() != 0,
                random_delay_s=random_delay_s,
            )
    return files


def _notes(path: Path, plan: Plan) -> list[str]:
    notes = []
    for file, _, new in plan.changes:
        name = block_in(new, path)
        if file is None and lines_of(new, name) is not None:
            notes += bites(beside_block(new, name)[0])
        if new and (file is None or file.parent == _CRON_D) and not cron_is_seen():
            notes.append("No cron daemon is running: nothing happens until one does (service cron start).")
    if plan.start and not systemd.runs_here():
        notes.append("systemd does not run on this host: the units are enabled and start at the next boot.")
    elif plan.start and not systemd.lingers():
        notes.append(": ".join(systemd.NO_LINGER))
    return notes


def cron_daemons() -> list[Identity]:
    """The cron daemons that run on this host, as far as we may see them."""
    found = [process_table.identity(one.pid) for one in process_table.everybody() if one.name in _CRON_DAEMONS]
    return [daemon for daemon in found if daemon is not None]


def cron_is_seen() -> bool:
    """Whether a cron daemon runs, or systemd-cron. True also if the host's processes are hidden from us, since one may
    run."""
    if systemd.runs_here() and paths.is_dir(_SYSTEMD_CRON):
        return True
    return bool(cron_daemons()) or not any(one.pid == 1 for one in process_table.everybody())


def carry_out(plan: Plan, state_dir: Path) -> Path | None:
    """Make the changes, and create the folder of the logs. Returns where the old crontab was saved. Raises
    GuardError."""
    saved = None
    with held(default_state_dir(os.environ), ["crontab"], what="A change of the timer", wait=True):
        trouble = None
        if plan.stop:
            try:
                systemd.disable(plan.stop)
            except GuardError as error:
                trouble = error  # the files are removed all the same: after a reload their units no longer run
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if plan.logs is not None:
                Files().make_folder(plan.logs)
            for path, old, new in plan.changes:
                if path is not None:
                    _write(path, new)
                    continue
                saved = _save(state_dir, old)
                try:
                    crontab.replace(old, new)
                except GuardError as error:
                    raise GuardError(f"{error} The old crontab is saved in {saved}.") from error
        except OSError as error:
            raise GuardError(f"{error.filename} cannot be written: {error.strerror}.") from error
        if plan.start:
            systemd.enable(plan.start, [path.name for path, old, _ in plan.changes if path is not None and old])
        elif plan.stop:
            systemd.forget()
    if trouble is not None:
        raise trouble
    return saved


def _save(state_dir: Path, content: bytes) -> Path:
    """Keep an old crontab under a name of its own, also of two within a second."""
    stem = f"crontab.{clock.local(clock.now()):%Y%m%dT%H%M%S}"
    for number in count(1):
        path = state_dir / (stem if number == 1 else f"{stem}-{number}")
        with suppress(FileExistsError), open(path, "xb", opener=partial(os.open, mode=0o600)) as file:
            file.write(content)
            return path
    raise AssertionError("count() ends")


def _write(path: Path, content: bytes) -> None:
    """Write the file in one step; without content it is removed. Neither cron nor systemd reads the temporary name."""
    if not content:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.chmod(0o644)
    new.replace(path)
