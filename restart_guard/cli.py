"""The command line: global options, the table of commands, and the one place where errors become texts and exit codes.

A command's module is imported only when that command runs, so that a tick imports neither redis nor requests.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from restart_guard import __version__, clock
from restart_guard.config.wording import suggestion
from restart_guard.errors import ExitCode, GuardError
from restart_guard.session import Session
from restart_guard.terminal import Terminal

COMMANDS = {
    "init": ("init", "Write a first config."),
    "start": ("start", "Start programs and guard them from now on."),
    "stop": ("stop", "Stop programs gently. They stay down."),
    "kill": ("kill", "Kill programs. The next restart relaunches them."),
    "restart": ("restart", "Restart programs that have died (for cron, every minute)."),
    "watch": ("watch", "Watch programs and restart them as soon as they exit."),
    "standby": ("standby", "Take part in a group of hosts, one of which runs the programs."),
    "status": ("status", "Show every program: state, pid, uptime."),
    "check-redis": ("check_redis", "Check the Redis data, recover it, record the outcome, alert if it stays bad."),
    "refresh": ("refresh", "Rebuild Redis data from MySQL, and report the differences."),
    "deliver": ("deliver", "Deliver rows and alerts that are pending."),
    "history": ("history", "Show what happened, newest first."),
    "install-timer": ("install_timer", "Let cron or systemd run restart-guard."),
    "uninstall-timer": ("uninstall_timer", "Remove what install-timer installed."),
    "doctor": ("doctor", "Check config, permissions, Redis, MySQL, WeCom and timer, and say what to do."),
    "init-db": ("init_db", "Create the MySQL table task_monitor."),
    "demo": ("demo", "Show the whole job on an embedded Redis, without a config."),
}


GROUPS = {
    "Set up": ("init", "install-timer", "uninstall-timer", "init-db", "demo"),
    "Programs": ("start", "stop", "kill", "restart", "watch", "standby", "status"),
    "Redis data": ("check-redis", "refresh"),
    "See what happened": ("history", "deliver", "doctor"),
}


class LazyGroup(click.Group):
    """A group whose commands are imported by name. Their short help texts are in COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"restart_guard.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"There is no command {args[0]}{suggestion(args[0], list(COMMANDS))}.", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, COMMANDS[name][1]) for name in names])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-c", "--config", "config_option", type=click.Path(path_type=Path), help="The config file.")
@click.option("-v", "--verbose", is_flag=True, help="Show more.")
@click.option("-q", "--quiet", is_flag=True, help="Show errors only.")
@click.version_option(__version__, prog_name="restart-guard", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, *, config_option: Path | None, verbose: bool, quiet: bool) -> None:
    """Keep programs running and weekly Redis data in place, from cron, without root.

    The config is looked for in -c, $RESTART_GUARD_CONFIG, ./config.toml, $XDG_CONFIG_HOME/restart-guard/config.toml
    and /etc/restart-guard/config.toml.
    """
    ctx.color = False if os.environ.get("NO_COLOR") else None
    ctx.obj = Session(config_option, Terminal(verbosity=verbose - quiet))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return the exit code. Nothing is raised: every error becomes text."""
    terminal = Terminal()
    context: click.Context | None = None
    try:
        with cli.make_context("restart-guard", list(arguments)) as context:
            code = cli.invoke(context)
            return _finish(context.obj.terminal, int(code or 0))
    except click.exceptions.Exit as done:
        return int(done.exit_code)
    except click.UsageError as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            terminal.report(error.format_message())
        else:
            terminal.error(error.format_message())
            terminal.error(f"Try: {error.ctx.command_path if error.ctx else 'restart-guard'} --help")
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        terminal.error("Interrupted.")
        return ExitCode.INTERRUPTED
    except GuardError as error:
        _terminal_of(context, terminal).error(str(error))
        return error.exit_code
    except Exception as error:  # noqa: BLE001 (the edge: a bug gets a line, its traceback goes to the log)
        return _bug(context, terminal, error)


def _finish(terminal: Terminal, code: int) -> int:
    """The command's own exit code, or failure if its output could not be written."""
    terminal.close()
    if terminal.write_error is None or isinstance(terminal.write_error, BrokenPipeError):
        return code
    terminal.error(f"The output could not be written: {terminal.write_error.strerror}.")
    terminal.close()
    return code or ExitCode.FAILED


def _terminal_of(context: click.Context | None, terminal: Terminal) -> Terminal:
    """The session's terminal, which knows the secrets to redact."""
    return context.obj.terminal if context is not None and isinstance(context.obj, Session) else terminal


def _bug(context: click.Context | None, terminal: Terminal, error: Exception) -> int:
    """Report a bug: one line for the operator, the traceback in the log."""
    terminal = _terminal_of(context, terminal)
    session = context.obj if context is not None else None
    state_dir = (session or Session(None, terminal)).state_dir
    log = state_dir / "restart-guard.log"
    # Only a bug needs it.
    from traceback import format_exception

    text = terminal.redact("".join(format_exception(error)))
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{clock.stamp(clock.now())} restart-guard {__version__} {sys.argv[1:2]}\n{text}\n")
        where = f"the traceback is in {log}"
    except OSError:
        where = f"and it could not be logged:\n{text}"
    terminal.error(f"This is a bug in restart-guard ({type(error).__name__}); {where}")
    return ExitCode.BUG
