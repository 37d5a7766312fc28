"""Our block in a crontab: lines between two markers, all other bytes untouched. Pure: bytes in, bytes out.

A crontab is bytes: comments in Latin-1, tabs and odd spacing belong to the user, and are kept as they are.
"""

import os
import re
from collections.abc import Sequence

from restart_guard.errors import GuardError
from restart_guard.timer.jobs import Job

LONGEST = 990
"""Bytes of a line: Debian's cron takes 998 for the command."""

_ASSIGNMENT = re.compile(r"""\s*("[^"]*"|'[^']*'|[A-Za-z_]\w*)\s*=(.*)""")
_BITES = {
    "CRON_TZ": "cronie runs its lines by that zone's clock",
    "RANDOM_DELAY": "cronie runs its lines up to so many minutes later",
    "HOME": "the default state_dir lies elsewhere for cron than for you",
    "XDG_STATE_HOME": "the default state_dir lies elsewhere for cron than for you",
    "TZ": "our lines take their times from it, cron runs them by a clock of its own",
    "PYTHONPATH": "our lines may load other modules than you",
    "PYTHONHOME": "our lines may run another Python than you",
}
_UNFINISHED = b" (after a line without an end)"


def quoted(word: str) -> str:
    r"""A word for cron and its sh. A bare % would end the command, and cron drops the backslash of \% even in quotes,
    so the quote is closed before it. Raises GuardError for a word that cannot be written for every cron."""
    if any(character in word for character in "\n\r\0\\"):
        raise GuardError(f"A crontab cannot hold this path in a way that every cron understands: {word!r}.")
    if word and all(character.isalnum() or character in "/._-+=:,@" for character in word):
        return word
    inside = word.replace("'", "'\"'\"'").replace("%", "'\\%'")
    return f"'{inside}'"


def line(job: Job, *, schedule: str, user: str = "") -> str:
    """A job as a line of a crontab; lines of /etc/cron.d name the user. Raises GuardError."""
    fields = [schedule, user] if user else [schedule]
    command = " ".join(map(quoted, job.words))
    text = " ".join([*fields, command, ">>", quoted(str(job.log)), "2>>", quoted(str(job.errors))])
    if len(os.fsencode(text)) > LONGEST:
        raise GuardError(f"This line is too long for cron, which takes {LONGEST} bytes: {text}")
    return text


def with_block(content: bytes, name: str, lines: Sequence[str]) -> bytes:
    """The crontab with our block of that name, in its place or at the end. Raises GuardError."""
    before, after = _around(content, name)
    body = b"".join(os.fsencode(line) + b"\n" for line in lines)
    if after is None:
        unfinished = content != b"" and not content.endswith(b"\n")
        return content + (b"\n" if unfinished else b"") + _begin(name, unfinished=unfinished) + body + _end(name)
    unfinished = before.endswith(b"\n") and _has_unfinished(content, name)
    return before + _begin(name, unfinished=unfinished) + body + _end(name) + after


def without_block(content: bytes, name: str) -> bytes:
    """The crontab as it was before ``with_block``. Raises GuardError."""
    before, after = _around(content, name)
    if after is None:
        return content
    # A last line without a newline needs one now if lines were added after our block.
    return before[:-1] if _has_unfinished(content, name) and not after else before + after


def beside_block(content: bytes, name: str) -> tuple[list[str], list[str]]:
    """The lines above and below our block; all are above without one. Raises GuardError."""
    before, after = _around(content, name)
    return os.fsdecode(before).splitlines(), os.fsdecode(after or b"").splitlines()


def bites(above: Sequence[str]) -> list[str]:
    """Problems with assignments above our block that change how its lines run, which nobody will have meant
    (crontab(5))."""
    problems = []
    for name, value in assignments(above).items():
        shell = value.rpartition("/")[2]
        if name == "SHELL" and shell not in ("sh", "bash", "dash", "ash", "ksh", "zsh"):
            problems.append(f"SHELL={value} above our block: its lines are written for sh")
        elif name in _BITES:
            problems.append(f"{name}={value} above our block: {_BITES[name]}")
        elif name == "PATH" and not {"/bin", "/usr/bin"} <= set(value.split(":")):
            problems.append(f"PATH={value} above our block: it lacks /usr/bin or /bin; cron does not expand variables")
    return problems


def path_above(above: Sequence[str]) -> str:
    """The PATH that our lines get: as assigned above them, else cron's own (crontab(5))."""
    return assignments(above).get("PATH", "/usr/bin:/bin")


def assignments(lines: Sequence[str]) -> dict[str, str]:
    """The variables that lines of a crontab set for those below them (crontab(5))."""
    found = {}
    for line in lines:
        assigned = _ASSIGNMENT.match(line)
        if assigned:
            name, value = (part.strip().strip("\"'") for part in assigned.groups())
            found[name] = value
    return found


def block_names(content: bytes) -> list[str]:
    """The names of all our blocks."""
    begin = re.compile(rb"# BEGIN restart-guard (.+?)(?: \(after a line without an end\))?")
    return [os.fsdecode(match[1]) for line in content.split(b"\n") if (match := begin.fullmatch(line))]


def lines_of(content: bytes, name: str) -> list[str] | None:
    """The lines of our block; None if there is no block. Raises GuardError."""
    before, after = _around(content, name)
    if after is None:
        return None
    block = content[len(before) : len(content) - len(after)]
    return [os.fsdecode(line) for line in block.split(b"\n")[1:-2]]


def _begin(name: str, *, unfinished: bool) -> bytes:
    return os.fsencode(f"# BEGIN restart-guard {name}") + (_UNFINISHED if unfinished else b"") + b"\n"


def _end(name: str) -> bytes:
    return os.fsencode(f"# END restart-guard {name}\n")


def _has_unfinished(content: bytes, name: str) -> bool:
    return _begin(name, unfinished=True) in content


def _around(content: bytes, name: str) -> tuple[bytes, bytes | None]:
    """The bytes before and after our block; all of them and None if there is no block. Raises GuardError for a damaged
    block."""
    lines = content.splitlines(keepends=True) if b"\r" not in content else content.split(b"\n")
    if b"\r" in content:
        raise GuardError(
            "The crontab has lines that end with CR, as Windows writes them; crontab -l would damage them. Remove them "
            "with crontab -e first; nothing was changed."
        )
    begins = {_begin(name, unfinished=unfinished) for unfinished in (True, False)}
    starts = [number for number, line in enumerate(lines) if line in begins]
    ends = [number for number, line in enumerate(lines) if line.rstrip(b"\n") + b"\n" == _end(name)]
    if not starts and not ends:
        return content, None
    if len(starts) != 1 or len(ends) != 1 or starts[0] > ends[0]:
        raise GuardError(
            f"The crontab has the markers of our block {len(starts)} and {len(ends)} times, or in the wrong order "
            f"(# BEGIN restart-guard {name}); fix it with crontab -e; nothing was changed."
        )
    return b"".join(lines[: starts[0]]), b"".join(lines[ends[0] + 1 :])
