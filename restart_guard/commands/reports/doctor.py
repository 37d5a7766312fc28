import click

from restart_guard.commands.parameters import pass_session
from restart_guard.doctor import examine
from restart_guard.doctor.finding import Level, shown
from restart_guard.errors import ExitCode
from restart_guard.session import Session


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option(
    *("--send-test-alert", "test_alert"),
    is_flag=False,
    flag_value="",
    metavar="[NAME]",
    help="Send a test message to every alert channel, or to this one.",
)
@pass_session
def command(session: Session, *, as_json: bool, test_alert: str | None) -> int:
    """Check config, permissions, journal, Redis, MySQL, WeCom and timer: one line each, and what to do;
    what has failed comes first.

    No message is sent unless you ask for it. Exit code: 0 nothing has failed, 1 something has, 2 the config is wrong.
    """
    worst_first = [Level.FAIL, Level.WARN, Level.OK]
    found = list(examine.examine(session.config, test_alert=test_alert))
    findings = sorted(found, key=lambda finding: worst_first.index(finding.level))
    if as_json:
        session.terminal.document([shown(finding) for finding in findings])
    else:
        for finding in findings:
            session.terminal.report(str(finding))
    failed = any(finding.level is Level.FAIL for finding in findings)
    return ExitCode.FAILED if failed else ExitCode.DONE
