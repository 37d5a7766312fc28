import click

from restart_guard.doctor import examine
from restart_guard.doctor.finding import Level, shown
from restart_guard.errors import ExitCode
from restart_guard.session import Session, pass_session


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--send-test-alert", is_flag=True, help="Send a test message to every alert channel.")
@pass_session
def command(session: Session, *, as_json: bool, send_test_alert: bool) -> int:
    """Look at config, permissions, journal, Redis, MySQL and WeCom: one line each, and what to do.

    It never posts a message unless asked to. Exit code: 0 nothing fails, 1 something does, 2 the config is wrong.
    """
    findings = []
    for finding in examine.examine(session.config, send_test_alert=send_test_alert):
        findings.append(finding)
        if not as_json:
            session.terminal.report(str(finding))
    if as_json:
        session.terminal.document([shown(finding) for finding in findings])
    failed = any(finding.level is Level.FAIL for finding in findings)
    return ExitCode.FAILED if failed else ExitCode.DONE
