"""The command line: global options and the table of commands.

A command's module is imported only when that command runs, so that a tick imports neither redis nor requests.
"""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path

import click

from restart_guard import __version__
from restart_guard.config import load as config_file
from restart_guard.config.wording import suggestion
from restart_guard.errors import ConfigError, ExitCode
from restart_guard.session import Session

COMMANDS = {
    "init": ("setup.init", "Write a first config."),
    "start": ("programs.start", "Start programs and guard them from now on."),
    "stop": ("programs.stop", "Stop programs gently. They stay down."),
    "kill": ("programs.kill", "Kill programs. The next restart relaunches them."),
    "restart": ("programs.restart", "Restart programs that have died (for cron, every minute)."),
    "watch": ("programs.watch", "Watch programs and restart them as soon as they exit."),
    "standby": ("programs.standby", "Take part in a group of hosts, one of which runs the programs."),
    "status": ("programs.status", "Show every program: state, pid, uptime."),
    "check-redis": ("data.check_redis", "Check the Redis data, recover it, record the outcome, alert if it stays bad."),
    "refresh": ("data.refresh", "Rebuild Redis data from MySQL, and report the differences."),
    "deliver": ("reports.deliver", "Deliver rows and alerts that are pending."),
    "ack": ("reports.ack", "Say that you know about something that is wrong: repeated alerts stop."),
    "mute": ("reports.mute", "Send nothing about something for a while."),
    "unmute": ("reports.unmute", "Tell it again."),
    "history": ("reports.history", "Show what happened, newest first."),
    "logs": ("reports.logs", "Show the end of a program's log, or of a job's."),
    "page": ("reports.page", "Write the page that shows everything."),
    "metrics": ("reports.metrics", "Print the metrics for Prometheus."),
    "install-timer": ("setup.install_timer", "Let cron or systemd run restart-guard."),
    "uninstall-timer": ("setup.uninstall_timer", "Remove what install-timer installed."),
    "doctor": ("reports.doctor", "Check config, permissions, Redis, MySQL, WeCom and timer, and say what to do."),
    "init-db": ("setup.init_db", "Create the MySQL table task_monitor."),
    "demo": ("setup.demo", "Show the whole job on an embedded Redis, without a config."),
}


GROUPS = {
    "Set up": ("init", "install-timer", "uninstall-timer", "init-db", "demo"),
    "Programs": ("start", "stop", "kill", "restart", "watch", "standby", "status"),
    "Redis data": ("check-redis", "refresh"),
    "See what happened": ("history", "ack", "mute", "unmute", "logs", "page", "metrics", "deliver", "doctor"),
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


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-c", "--config", "config_option", type=click.Path(path_type=Path), help="The config file.")
@click.option("-v", "--verbose", is_flag=True, help="Show more.")
@click.option("-q", "--quiet", is_flag=True, help="Show errors only.")
@click.option("--json", "as_json", is_flag=True, help="Print the overview as one JSON document.")
@click.version_option(__version__, prog_name="restart-guard", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, *, config_option: Path | None, verbose: bool, quiet: bool, as_json: bool) -> None:
    """Keep programs running and weekly Redis data in place, from cron, without root.

    Without a command: an overview of everything, worst first.

    The config is looked for in -c, $RESTART_GUARD_CONFIG, ./config.toml, $XDG_CONFIG_HOME/restart-guard/config.toml
    and /etc/restart-guard/config.toml.
    """
    ctx.color = False if os.environ.get("NO_COLOR") else None
    session = ctx.ensure_object(Session)
    session.config_option = config_option
    session.terminal.verbosity = verbose - quiet
    if ctx.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError("--json stands behind the command.", ctx)
        return
    try:
        config_file.find(config_option, os.environ)
    except ConfigError:
        session.terminal.report(ctx.get_help())
        ctx.exit(ExitCode.USAGE)
    # Only here.
    from restart_guard.commands.reports import overview

    overview.show(session, as_json=as_json)


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
        terminal.error(error.format_message())
        terminal.error(f"Try: {error.ctx.command_path if error.ctx else 'restart-guard'} --help")
        return ExitCode.USAGE
    except click.Abort:
        raise KeyboardInterrupt from None
