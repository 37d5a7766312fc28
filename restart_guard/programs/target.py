"""A guarded program as the config describes it: its files, its command, its environment and its account."""

import os
import pwd
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from restart_guard.config.options import Config, Redis, TargetOptions
from restart_guard.config.values import parse_environment
from restart_guard.errors import GuardError
from restart_guard.host import permit
from restart_guard.host.family import FENCE, MARK, TARGET, TICKET, Family
from restart_guard.host.files import Account, Files
from restart_guard.host.hook import Hook
from restart_guard.host.identity import Identity, ProcessMatcher, unversioned
from restart_guard.host.strangers import Stranger
from restart_guard.host.trust import weakness
from restart_guard.paths import real
from restart_guard.programs import processes
from restart_guard.programs.lifecycle import State
from restart_guard.programs.pidlock import PidLock, Record
from restart_guard.programs.processes import Launch

_LARGEST_ENVIRONMENT = 1 << 20
_OF_ANY_LOGIN = ("PATH", "LANG", "LC_*", "TZ")
_NOBODY = Account(65534, 65534)
_ROOT = Path(__file__).resolve().parents[2]


class Target(NamedTuple):
    """A target with its files and how it is recognised. ``account`` is another user's, which only root has."""

    name: str
    settings: TargetOptions
    program: ProcessMatcher
    lock: PidLock
    redis: Redis
    permit: Path | None = None
    account: Account | None = None
    secret_variables: frozenset[str] = frozenset()

    @property
    def uid(self) -> int:
        """The account that it runs as."""
        return os.geteuid() if self.account is None else self.account.uid

    def files(self, path: Path) -> Files:
        """Who does the work on a file of the target: the account, unless the way to it is root's alone."""
        return _files(self.account, path)

    @property
    def directory(self) -> Path:
        """The working directory of its command and its hooks."""
        return self.settings.directory or self.program.path.parent

    @property
    def may_run(self) -> bool:
        """Whether this host may start it; always True without a standby group."""
        if self.permit is None:
            return True
        permitted = permit.read(self.permit)
        return permitted.starts and permitted.holds()


class Observation(NamedTuple):
    """A target's state and process. ``why`` explains the state if that is needed.

    ``family`` is what ``process`` belongs to, or what is left of the last launch. ``stranger`` is a process like the
    target that no launch of ours started; it has been looked for only if that was asked. ``runs_as``: another user who
    may act on the program runs it, in a group's folder: it is left alone.
    """

    state: State
    process: Identity | None
    record: Record
    why: str = ""
    next_try_s: float | None = None
    family: Family | None = None
    stranger: Stranger | None = None
    runs_as: str = ""


class StopOptions(NamedTuple):
    """How long a program may drain (None: its own ``stop_timeout``), and whether to kill what is left then.

    ``tell`` is called about once a second while it drains, with its name, the seconds left and the number of processes.
    """

    timeout_s: float | None = None
    force: bool = False
    tell: Callable[[str, float, int], None] | None = None


def target_of(config: Config, name: str) -> Target:
    settings = config.targets[name]
    path = Path(real(settings.program))
    who = _account(settings.user)
    files = _files(who, settings.program)
    words = command_words(settings, settings.command, path)
    place = words.index(str(path)) if str(path) in words else len(words)
    # Computed only if a search needs it: a tick over many healthy targets must not open their files.
    runners = cache(partial(_runners, settings, path, words[:place], files))
    directory = settings.directory or path.parent
    arguments = cache(partial(_arguments, words, path, directory, shell=settings.shell))
    before, alias = tuple(words[1:place]), settings.program.name
    program = ProcessMatcher(path, runners, settings.identify, before, alias, arguments, directory)
    only_leading = config.permit if name in config.standby_targets else None
    lock = PidLock(
        path,
        settings.pid_file,
        memory=config.state_dir / "targets",
        uid=os.geteuid() if who is None else who.uid,
        files=files,
        pid_files=None if settings.pid_file is None else _files(who, settings.pid_file),
    )
    return Target(name, settings, program, lock, config.redis, only_leading, who, config.secret_variables)


def _files(account: Account | None, path: Path) -> Files:
    return Files() if account is None or weakness(path) is None else Files(account)


def _runners(settings: TargetOptions, path: Path, words: Sequence[str], files: Files) -> frozenset[str]:
    """The names under which the program may run: of each word before it (a wrapper, its interpreter), as it stands and
    as the file behind it (sh may be dash), of its #! line, and its own."""
    if settings.shell:
        with suppress(ValueError):
            words = [word for part in words for word in shlex.split(part)]
    with suppress(OSError):
        first = files.read(path, 256).partition(b"\n")[0]
        if first.startswith(b"#!"):
            words = [*words, *os.fsdecode(first[2:]).split()]
    names = {path.name}
    for word in words:
        names |= {Path(word).name, Path(real(_found_on_path(word))).name}
    return frozenset(map(unversioned, names))


def _arguments(words: Sequence[str], path: Path, directory: Path, *, shell: bool) -> tuple[str, ...]:
    """The words after the program in its command; all but the first if the program is not named there."""
    if shell:
        words = next((part for part in _simple_commands(words[-1]) if _place(part, path, directory) is not None), ())
    place = _place(words, path, directory)
    return tuple(words[1 if place is None else place + 1 :])


def _place(words: Sequence[str], path: Path, directory: Path) -> int | None:
    """Which word of a command is the program."""
    found = (index for index, word in enumerate(words) if real(directory / word) == str(path))
    return next(found, None)


# A word with its quotes, a redirection, or what ends a simple command (sh(1p), "Shell Grammar").
_SHELL_PART = r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\;&|()<>])+|[<>]+&?|[;&|()\n]"""


def _simple_commands(text: str) -> list[list[str]]:
    """The words of each simple command in a line for the shell, without redirections."""
    commands: list[list[str]] = [[]]
    is_target = False
    for found in re.finditer(_SHELL_PART, text):
        word = found[0]
        if word[0] in "<>":
            if commands[-1] and commands[-1][-1].isdigit() and text[found.start() - 1].isdigit():
                commands[-1].pop()
            is_target = True
        elif word in ";&|()\n":
            commands.append([])
        elif is_target:
            is_target = False
        else:
            with suppress(ValueError):
                commands[-1] += shlex.split(word)
    return commands


def _found_on_path(word: str) -> str:
    """Like shutil.which, whose import costs a tick the decompressors of the standard library."""
    if "/" not in word:
        for folder in os.get_exec_path():
            if os.access(f"{folder}/{word}", os.X_OK):
                return f"{folder}/{word}"
    return word


def command_words(settings: TargetOptions, command: str, path: Path) -> list[str]:
    """A command with {python} and {program} filled in; other braces belong to the command (``${HOME}``, awk)."""
    return list(_words(command, str(path), shell=settings.shell))


@cache  # a relaunch must not split it again
def _words(command: str, program: str, *, shell: bool) -> tuple[str, ...]:
    quote = shlex.quote if shell else str
    fill = {"{python}": quote(sys.executable), "{program}": quote(program)}
    words = ["/bin/sh", "-c", command] if shell else shlex.split(command)
    return tuple(re.sub(r"\{python\}|\{program\}", lambda found: fill[found[0]], word) for word in words)


def launch_of(target: Target, ticket: str) -> Launch:
    """The launch of a target now, from its files and accounts at this moment. Raises GuardError."""
    settings = target.settings
    words = command_words(settings, settings.command, target.program.path)
    around = environment(target) | {TICKET: ticket}
    if target.permit is not None:
        words, around = _fenced(target.permit, settings.start_timeout, words, around)
    return Launch(
        words,
        target.directory,
        around,
        settings.log_file,
        umask=int(settings.umask, 8) if settings.umask is not None else -1,
        user=launch_account(target),
        ticket=ticket,
        files=Files() if settings.log_file is None else target.files(settings.log_file),
    )


def _fenced(
    path: Path, launcher_s: float, words: list[str], around: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """A command behind a fence, whose own Python ignores the settings for the target's Python."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
    ours["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), ours.get("PYTHONPATH")]))
    theirs = {name: value for name, value in around.items() if name.startswith("PYTHON")}
    changes = {name: theirs.get(name) for name in (*ours, *theirs) if ours.get(name) != theirs.get(name)}
    plain = {name: value for name, value in around.items() if name not in theirs}
    # Files in its folder must not replace modules of ours (python -P).
    command = [
        sys.executable,
        "-P",
        "-m",
        "restart_guard.programs.fence",
        str(path),
        str(float(launcher_s)),
        "--",
        *words,
    ]
    return command, {**plain, **ours, FENCE: msgspec.json.encode(changes).decode()}


def hook_of(target: Target, command: str, process: Identity | None, timeout_s: float) -> Hook:
    """A command about the target, run like the target: same account, directory and environment. Raises GuardError."""
    more = {"RESTART_GUARD_PID": str(processes.behind_fence(process).pid)} if process is not None else {}
    # Processes that the hook starts do not belong to the target: they must not carry its mark.
    plain = {name: value for name, value in environment(target).items() if name != MARK}
    words = command_words(target.settings, command, target.program.path)
    return Hook(words, target.directory, plain | more, timeout_s, launch_account(target))


def environment(target: Target) -> dict[str, str]:
    """Of our environment what the target may have, then the file's, then the config's; later ones win. Raises
    GuardError.

    Nothing that the config names as a secret, and for another user only what any login has, unless it is to be passed.
    """
    settings = target.settings
    ours = _ours()
    if target.account is None:
        secret = target.secret_variables
        variables = {name: ours[name] for name in ours if name not in secret or _is_passed(name, settings)}
    else:
        variables = {name: ours[name] for name in ours if _is_passed(name, settings, _OF_ANY_LOGIN)}
    if target.account is not None and settings.user is not None:
        entry = _entry(settings.user)
        variables |= {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name, "SHELL": entry.pw_shell}
    if settings.environment_file is not None:
        try:
            path = settings.environment_file
            variables |= parse_environment(target.files(path).read_text(path, _LARGEST_ENVIRONMENT))
        except OSError as error:
            why = error.strerror
            raise GuardError(f"environment_file {settings.environment_file} cannot be read: {why}.") from error
        except ValueError as error:
            why = "expected UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
            raise GuardError(f"environment_file {settings.environment_file}: {why}.") from error
    token = permit.read(target.permit).token
    if token is not None:
        variables["RESTART_GUARD_FENCING_TOKEN"] = str(token)
    return variables | {
        **settings.environment,
        TARGET: target.name,
        MARK: str(target.program.path),
    }


def _is_passed(name: str, settings: TargetOptions, more: Sequence[str] = ()) -> bool:
    """Whether a variable is one of those to be passed: ``NAME``, or by its beginning ``PREFIX*``."""
    patterns = (*more, *settings.pass_environment)
    return any(name == one or (one[-1] == "*" and name.startswith(one[:-1])) for one in patterns)


@cache
def _ours() -> dict[str, str]:
    return dict(os.environ)


def launch_account(target: Target) -> Account | None:
    """The account to start something as; None if it is our own. Raises GuardError."""
    if target.settings.user is None:
        return None
    _entry(target.settings.user)
    if target.account is not None and os.geteuid() != 0:
        raise GuardError(f"only root can start it as user {target.settings.user}.")
    return target.account


@cache
def _account(user: str | None) -> Account | None:
    """None if it is our own. A user who does not exist owns nothing, and nothing is started as that."""
    if user is None:
        return None
    try:
        entry = _entry(user)
    except GuardError:
        return _NOBODY
    if os.geteuid() == entry.pw_uid:
        return None
    return Account(entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)))


def _entry(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError as error:
        raise GuardError(f"there is no user {user} on this host.") from error
