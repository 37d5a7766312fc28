"""The command line: global options and the table of commands.

A command's module is imported only when that command runs, so that a tick imports neither redis nor requests.
"""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path

import click

from restart_guard import __version__
from restart_guard.config.wording import suggestion
from restart_guard.errors import ExitCode
from restart_guard.session import Session

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
    session = ctx.ensure_object(Session)
    session.config_option = config_option
    session.terminal.verbosity = verbose - quiet


def run(arguments: Sequence[str], session: Session) -> int:
    """Run one command line and return the exit code; what is wrong with the line itself becomes text. Raises what the
    command raises, and KeyboardInterrupt."""
    terminal = session.terminal
    try:
        with cli.make_context("restart-guard", list(arguments), obj=session) as context:
            return int(cli.invoke(context) or 0)
    except click.exceptions.Exit as done:
        return int(done.exit_code)
    except click.UsageError as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            terminal.report(error.format_message())
        else:
            terminal.error(error.format_message())
            terminal.error(f"Try: {error.ctx.command_path if error.ctx else 'restart-guard'} --help")
        return ExitCode.USAGE
    except click.Abort:
        raise KeyboardInterrupt from None
