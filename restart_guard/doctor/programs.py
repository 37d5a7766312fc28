"""The doctor's findings about each target: its state, and whether the next launch would find everything it needs."""

import os
from collections.abc import Iterator

from restart_guard.config.options import Config
from restart_guard.doctor.finding import Finding, Level
from restart_guard.errors import GuardError
from restart_guard.programs import processes
from restart_guard.programs.lifecycle import State
from restart_guard.programs.observe import observe
from restart_guard.programs.target import Target, account, command_words, environment, target_of
from restart_guard.standby.memory import in_group


def findings(config: Config) -> Iterator[Finding]:
    """One finding a target, and one for each thing that would prevent its launch."""
    targets = [target_of(config, name) for name in config.targets]
    processes.prepare()
    observations = observe(targets, search_stopped=True, search_strangers=True)
    for target in targets:
        name, observed = target.name, in_group(config, target, observations[target.name])
        pid = f", pid {observed.process.pid}" if observed.process else ""
        level = Level.OK if observed.state in (State.RUNNING, State.STOPPED) else Level.WARN
        advice = {State.UNGUARDED: f"restart-guard start {name} guards it", State.DEAD: "the next tick relaunches it"}
        yield Finding(level, f"target {name}: {observed.state.value}{pid}", advice.get(observed.state, observed.why))
    for target in targets:
        yield from (Finding(Level.FAIL, f"target {target.name}: {why}", "see the config") for why in _missing(target))


def _missing(target: Target) -> Iterator[str]:
    settings, path = target.settings, target.program.path
    if not path.is_file():
        yield f"its program {path} does not exist"
        return
    if not settings.shell:
        word = command_words(settings, settings.command, path)[0]
        if not _is_found(word, path.parent):
            yield f"its command {word} was not found from {path.parent}"
    try:
        account(settings.user)
        environment(target)
    except GuardError as error:
        yield str(error).rstrip(".")
    log = settings.log_file
    if log is not None:
        place = next(part for part in (log, *log.parents) if part.exists())
        if not os.access(place, os.W_OK) or (place == log and not log.is_file()):
            yield f"its log_file {log} cannot be written"


def _is_found(word: str, folder: os.PathLike[str]) -> bool:
    if "/" in word:
        return os.access(os.path.join(folder, word), os.X_OK)  # noqa: PTH118 (an absolute word stays as it is)
    return any(os.access(f"{place}/{word}", os.X_OK) for place in os.get_exec_path())
