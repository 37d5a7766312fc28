"""The doctor's findings about each target: its state, and whether the next launch would find everything it needs."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from restart_guard import paths
from restart_guard.config.options import Config
from restart_guard.doctor.finding import Finding, Level
from restart_guard.errors import BusyError, GuardError, JournalError
from restart_guard.host import process_table
from restart_guard.journal.journal import Journal
from restart_guard.programs import processes
from restart_guard.programs.lifecycle import State
from restart_guard.programs.observe import observe
from restart_guard.programs.target import Target, command_words, environment, launch_account, target_of
from restart_guard.programs.upkeep import LOG_TROUBLE
from restart_guard.standby.memory import in_group
from restart_guard.timer import install


def findings(config: Config) -> Iterator[Finding]:
    """One finding a target, and one for each thing that would prevent its launch."""
    targets = [target_of(config, name) for name in config.targets]
    if targets and not process_table.has_pidfds():
        yield Finding(
            Level.OK,
            "host: no pidfds here (they need Linux 5.3, and a filter of system calls that lets them pass): the ends of "
            "programs are looked for 50 times a second, through /proc",
        )
    processes.prepare()
    observations = observe(targets, search_stopped=True, search_strangers=True)
    for target in targets:
        name, observed = target.name, in_group(config, target, observations[target.name])
        pid = f", pid {observed.process.pid}" if observed.process else ""
        level = Level.OK if observed.state in (State.RUNNING, State.STOPPED) else Level.WARN
        advice = {State.UNGUARDED: f"restart-guard start {name} guards it", State.DEAD: "the next tick relaunches it"}
        yield Finding(level, f"target {name}: {observed.state.value}{pid}", advice.get(observed.state, observed.why))
    yield from _logs(config)
    yield from (Finding(Level.FAIL, what, todo) for what, todo in missing_for_timer(config))
    for target in targets:
        yield from (Finding(Level.FAIL, f"target {target.name}: {why}", "see the config") for why in _missing(target))


def _logs(config: Config) -> Iterator[Finding]:
    """Logs that could not be rotated the last time."""
    with suppress(JournalError):  # which is reported in another section
        journal = Journal.open_to_read(config.state_dir)
        known = journal.recall(LOG_TROUBLE) if journal is not None else None
        for name, why in msgspec.json.decode(known or "{}", type=dict[str, str]).items():
            yield Finding(Level.WARN, f"target {name}: {why}", "more room, or another owner of the folder")


def missing_for_timer(config: Config) -> Iterator[tuple[str, str]]:
    """The targets whose command the timer would not find, although we do here; each with what to do."""
    path = install.search_path(config)
    for name in config.targets:
        target = target_of(config, name)
        folder = target.directory
        word = command_words(target.settings, target.settings.command, target.program.path)[0]
        with suppress(GuardError):
            if environment(target).get("PATH") != os.environ.get("PATH"):
                continue  # it has a PATH of its own
        if _is_found(word, folder) and not _is_found(word, folder, path):
            yield (
                f"target {name}: cron does not find its command {word}, whose PATH is {path}",
                "write the whole path of the command, or a line PATH=... at the top of the crontab",
            )


def _missing(target: Target) -> Iterator[str]:
    settings, path = target.settings, target.program.path
    if target.lock.recorded(process_table.boot_id()).is_lock_shared and target.lock.is_there():
        yield f"it writes its own pid file to {target.lock.path}, which must be restart-guard's alone"
    if not paths.is_file(path):
        is_hidden = paths.exists(path.parent) and not os.access(path.parent, os.X_OK)
        yield f"its program {path} {'is in a folder that may not be searched' if is_hidden else 'does not exist'}"
        return
    if not paths.is_dir(target.directory):
        yield f"its directory {target.directory} does not exist"
    elif not settings.shell:
        word = command_words(settings, settings.command, path)[0]
        if not _is_found(word, target.directory):
            yield f"its command {word} was not found from {target.directory}"
    try:
        with suppress(BusyError), target.lock.held(wait_s=0):
            pass  # on some file systems it cannot be locked
        launch_account(target)
        environment(target)
    except GuardError as error:
        yield str(error).rstrip(".")
    log = settings.log_file
    if log is not None:
        place = next(part for part in (log, *log.parents) if paths.exists(part))
        if not target.files(log).may_write(place) or paths.is_dir(log):
            yield f"its log_file {log} cannot be written by the user it runs as"


def _is_found(word: str, folder: Path, search_path: str | None = None) -> bool:
    """Whether a command is found on our PATH, or another one."""
    if "/" in word:
        return os.access(folder / word, os.X_OK)
    places = os.get_exec_path() if search_path is None else search_path.split(":")
    return any(os.access(f"{place}/{word}", os.X_OK) for place in places)
