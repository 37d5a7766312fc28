"""What a command does to a target in a given state: a table with every cell filled. Pure."""

from enum import StrEnum


class State(StrEnum):
    """A target as it was found: is its pid lock there, and is it alive?"""

    RUNNING = "running"  # lock, alive
    UNGUARDED = "unguarded"  # no lock, alive
    DEAD = "dead"  # lock, not alive
    STOPPED = "stopped"  # neither
    UNKNOWN = "unknown"  # may not look


class Command(StrEnum):
    START = "start"
    STOP = "stop"
    KILL = "kill"
    TICK = "tick"
    COLD = "cold"


class Action(StrEnum):
    NOTHING = "nothing"
    LOCK = "lock"  # write the pid lock for what is alive
    LAUNCH = "launch"
    DRAIN = "drain"  # remove the pid lock, end the group gently
    FORGET = "forget"  # remove the pid lock
    KILL = "kill"
    CYCLE = "cycle"  # drain, keeping the pid lock, then launch
    REFUSE = "refuse"


_TABLE: dict[Command, dict[State, Action]] = {
    Command.START: {
        State.RUNNING: Action.LOCK,
        State.UNGUARDED: Action.LOCK,
        State.DEAD: Action.LAUNCH,
        State.STOPPED: Action.LAUNCH,
        State.UNKNOWN: Action.REFUSE,
    },
    Command.STOP: {
        State.RUNNING: Action.DRAIN,
        State.UNGUARDED: Action.DRAIN,
        State.DEAD: Action.FORGET,
        State.STOPPED: Action.NOTHING,
        State.UNKNOWN: Action.REFUSE,
    },
    Command.KILL: {
        State.RUNNING: Action.KILL,
        State.UNGUARDED: Action.KILL,
        State.DEAD: Action.NOTHING,
        State.STOPPED: Action.NOTHING,
        State.UNKNOWN: Action.REFUSE,
    },
    Command.TICK: {
        State.RUNNING: Action.NOTHING,
        State.UNGUARDED: Action.NOTHING,
        State.DEAD: Action.LAUNCH,
        State.STOPPED: Action.NOTHING,
        State.UNKNOWN: Action.NOTHING,
    },
    Command.COLD: {
        State.RUNNING: Action.CYCLE,
        State.UNGUARDED: Action.CYCLE,
        State.DEAD: Action.LAUNCH,
        State.STOPPED: Action.LAUNCH,
        State.UNKNOWN: Action.REFUSE,
    },
}


def decide(command: Command, state: State) -> Action:
    return _TABLE[command][state]


def state_of(*, locked: bool, alive: bool | None) -> State:
    """``alive`` is None when we may not look."""
    if alive is None:
        return State.UNKNOWN
    if alive:
        return State.RUNNING if locked else State.UNGUARDED
    return State.DEAD if locked else State.STOPPED
