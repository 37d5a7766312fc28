"""Processes that no launch of ours started, and that look like a target: docs/lineage.md says which of them may be
adopted."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from restart_guard.host import process_table
from restart_guard.host.identity import Facts, Identity, ProcessMatcher, oldest_top


class Likeness(StrEnum):
    SAME = "same"  # program, arguments and account: it may be adopted
    ACCOUNT = "account"  # the same program and arguments, under another account
    ARGUMENTS = "arguments"  # the same program with other arguments


class Stranger(NamedTuple):
    process: Identity
    likeness: Likeness
    owner: int


class Wanted(NamedTuple):
    """How to recognise a target, and the uid of its account."""

    program: ProcessMatcher
    uid: int


def search(targets: Mapping[str, Wanted], processes: Sequence[Facts]) -> dict[str, Stranger]:
    """The stranger that is most like each target, if there is one: of a master with workers the master. ``processes``
    are all that may be strangers; those of another container are none."""
    index: dict[str, list[str]] = {}
    for name, wanted in targets.items():
        for file_name in wanted.program.file_names:
            index.setdefault(file_name, []).append(name)
    found: dict[str, dict[Likeness, list[Facts]]] = {name: {} for name in targets}
    for process in processes:
        try:
            look = process_table.look(process.pid)
        except OSError:
            continue
        for name in look.candidates(index):
            wanted = targets[name]
            if look.is_program(wanted.program) and process_table.shares_namespaces(process.pid):
                likeness = Likeness.ARGUMENTS
                if look.is_as_configured(wanted.program):
                    is_own = process_table.owner(process.pid) == wanted.uid
                    likeness = Likeness.SAME if is_own else Likeness.ACCOUNT
                found[name].setdefault(likeness, []).append(process)
    return {name: stranger for name, like in found.items() if (stranger := _most_like(like)) is not None}


def _most_like(found: Mapping[Likeness, Sequence[Facts]]) -> Stranger | None:
    for likeness in Likeness:
        first = oldest_top(found.get(likeness, ()))
        if first is not None:
            owner = process_table.owner(first.pid)
            return Stranger(
                Identity(first.pid, first.started, process_table.boot_id()), likeness, -1 if owner is None else owner
            )
    return None
