"""The action of a command on a target in a given state: a table with every cell filled. Pure."""

from enum import StrEnum


class State(StrEnum):
    """The state of a target: does its pid lock exist, and is it alive?"""

    RUNNING = "running"  # lock, alive
    UNGUARDED = "unguarded"  # no lock, alive
    DEAD = "dead"  # lock, not alive
    BACKOFF = "backoff"  # dead, next try at a known time
    STOPPED = "stopped"  # neither
    UNKNOWN = "unknown"  # may not look


class Command(StrEnum):
    START = "start"
    STOP = "stop"
    KILL = "kill"
    TICK = "tick"
    COLD = "cold"
    HOT = "hot"
    HEAL = "heal"  # the cold restart of a program that hangs
    YIELD = "yield"  # another host is to run it: down, but the pid lock stays


class Action(StrEnum):
    NOTHING = "nothing"
    LOCK = "lock"  # write the pid lock of a living process
    LAUNCH = "launch"
    DRAIN = "drain"  # remove the pid lock, end the group gently
    REST = "rest"  # end the group gently, keeping the pid lock
    FORGET = "forget"  # remove the pid lock
    KILL = "kill"
    SWEEP = "sweep"  # end the orphans of a dead program
    CYCLE = "cycle"  # drain, keeping the pid lock, then launch
    RELOAD = "reload"  # by signal or command, same pid
    REFUSE = "refuse"


_TABLE: dict[Command, dict[State, Action]] = {
    Command.START: {
        State.RUNNING: Action.LOCK,
        State.UNGUARDED: Action.LOCK,
        State.DEAD: Action.LAUNCH,
        State.BACKOFF: Action.LAUNCH,
        State.STOPPED: Action.LAUNCH,
        State.UNKNOWN: Action.REFUSE,
    },
    Command.STOP: {
        State.RUNNING: Action.DRAIN,
        State.UNGUARDED: Action.DRAIN,
        State.DEAD: Action.FORGET,
        State.BACKOFF: Action.FORGET,
        State.STOPPED: Action.SWEEP,
        State.UNKNOWN: Action.REFUSE,
    },
    Command.KILL: {
        State.RUNNING: Action.KILL,
        State.UNGUARDED: Action.KILL,
        State.DEAD: Action.SWEEP,
        State.BACKOFF: Action.SWEEP,
        State.STOPPED: Action.SWEEP,
        State.UNKNOWN: Action.REFUSE,
    },
    Command.TICK: {
        State.RUNNING: Action.NOTHING,
        State.UNGUARDED: Action.NOTHING,
        State.DEAD: Action.LAUNCH,
        State.BACKOFF: Action.NOTHING,
        State.STOPPED: Action.NOTHING,
        State.UNKNOWN: Action.NOTHING,
    },
    Command.COLD: {
        State.RUNNING: Action.CYCLE,
        State.UNGUARDED: Action.CYCLE,
        State.DEAD: Action.LAUNCH,
        State.BACKOFF: Action.LAUNCH,
        State.STOPPED: Action.LAUNCH,
        State.UNKNOWN: Action.REFUSE,
    },
    Command.HOT: {
        State.RUNNING: Action.RELOAD,
        State.UNGUARDED: Action.RELOAD,
        State.DEAD: Action.REFUSE,
        State.BACKOFF: Action.REFUSE,
        State.STOPPED: Action.REFUSE,
        State.UNKNOWN: Action.REFUSE,
    },
    Command.YIELD: {
        State.RUNNING: Action.REST,
        State.UNGUARDED: Action.REST,
        State.DEAD: Action.SWEEP,
        State.BACKOFF: Action.SWEEP,
        State.STOPPED: Action.SWEEP,
        State.UNKNOWN: Action.REFUSE,
    },
    Command.HEAL: {
        State.RUNNING: Action.CYCLE,
        State.UNGUARDED: Action.NOTHING,
        State.DEAD: Action.LAUNCH,
        State.BACKOFF: Action.NOTHING,
        State.STOPPED: Action.NOTHING,
        State.UNKNOWN: Action.NOTHING,
    },
}


def decide(command: Command, state: State) -> Action:
    return _TABLE[command][state]


def state_of(*, locked: bool, alive: bool, next_try_s: float = 0.0) -> State:
    """The state. ``next_try_s``: how long a dead program must still wait before it may be launched again."""
    if alive:
        return State.RUNNING if locked else State.UNGUARDED
    if not locked:
        return State.STOPPED
    return State.BACKOFF if next_try_s > 0 else State.DEAD
