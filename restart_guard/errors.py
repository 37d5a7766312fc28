"""The kinds of errors, and the exit code of each.

An error's text is a sentence for an operator: what failed, on which thing, why, what happens next. Drivers' exceptions
are turned into these once, in the module that talks to the driver.
"""

import errno
from enum import IntEnum, StrEnum

_NO_ROOM = "no more processes or threads are allowed here (ulimit -u, or the pids limit of the container)"


class ExitCode(IntEnum):
    """The process's exit codes; a script may rely on them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    BUG = 70  # EX_SOFTWARE of sysexits(3)
    BUSY = 75  # EX_TEMPFAIL of sysexits(3)
    INTERRUPTED = 130  # 128 + SIGINT, as a shell shows it


class Remedy(StrEnum):
    """What may help after an error: it decides between trying again, waiting and alerting a person."""

    RETRY = "retry"  # trying again can help, and so can a recovery
    WAIT = "wait"  # the server is loading or failing over: wait, a restart would do harm
    PERSON = "person"  # only a person can fix it


class GuardError(Exception):
    """A failure that is reported in one sentence and is no bug of ours."""

    exit_code = ExitCode.FAILED


class CrowdedError(GuardError):
    """A thread cannot be started, since this account or container has as many as it may have."""

    def __init__(self) -> None:
        super().__init__(f"A thread could not be started: {_NO_ROOM}.")


class ConfigError(GuardError):
    """The config cannot be used. ``problems`` holds a line for each problem, with its dotted key."""

    exit_code = ExitCode.USAGE

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UsageError(GuardError):
    """The command line asks for something that does not exist."""

    exit_code = ExitCode.USAGE


class BusyError(GuardError):
    """Another process is doing it right now; nothing was changed."""

    exit_code = ExitCode.BUSY


class SecretError(GuardError):
    """A secret's environment variable or file is missing or unreadable."""


class JournalError(GuardError):
    """The journal cannot be read or written: full disk, no permission, damaged file, or a newer program's schema."""


class StoreError(GuardError):
    """Redis or MySQL answered with an error or not at all.

    ``code`` is the server's own word or number for it (``WRONGPASS``, ``1045``), or one of ours in lower case
    (``timeout``, ``refused``); ``remedy`` says what may help.
    """

    def __init__(self, text: str, *, code: str, remedy: Remedy) -> None:
        super().__init__(text)
        self.code = code
        self.remedy = remedy


class RefreshError(GuardError):
    """A refresh was refused, or its rows do not fit. A message for a person is made from ``code`` and ``values``."""

    def __init__(self, code: str, **values: object) -> None:
        super().__init__(code, values)
        self.code = code
        self.values = values


class DeliveryError(GuardError):
    """A row or a message did not reach its destination.

    ``permanent``: trying again unchanged cannot help. ``whole_destination``: the next item would fail too.
    ``not_before_s``: the destination asked for this many seconds of silence.
    """

    def __init__(
        self,
        text: str,
        *,
        code: str,
        permanent: bool = False,
        whole_destination: bool = True,
        not_before_s: float = 0.0,
    ) -> None:
        super().__init__(text)
        self.code = code
        self.permanent = permanent
        self.whole_destination = whole_destination
        self.not_before_s = not_before_s


def told(error: BaseException) -> str:
    """An error for a person: its sentence, or of an unexpected one what a developer needs."""
    return str(error) if isinstance(error, GuardError) else repr(error)


def why_not_started(error: OSError) -> str:
    """Why a process could not be started, in words. The kernel's own say "Resource temporarily unavailable" and name
    no resource; see fork(2)."""
    if error.errno == errno.EAGAIN:
        return _NO_ROOM
    return error.strerror or repr(error)
