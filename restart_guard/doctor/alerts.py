"""The doctor's findings about WeCom and the monitor."""

import os
from collections.abc import Iterator

from restart_guard import clock
from restart_guard.alerts import http, wecom, wording
from restart_guard.config.options import Config
from restart_guard.doctor.finding import Finding, Level
from restart_guard.errors import DeliveryError, JournalError, SecretError
from restart_guard.journal import delivery, events
from restart_guard.journal.journal import Journal
from restart_guard.programs import tick


def wecom_findings(config: Config) -> Iterator[Finding]:
    if config.wecom is None:
        yield Finding(Level.WARN, "no [wecom]: nobody is alerted when a check stays bad", "add [wecom] webhook")
        return
    for channel in config.alert_channels:
        try:
            if channel == "wecom_app":
                wecom.App(config.wecom, config.state_dir).fetch_token()
            else:
                wecom.Robot(config.wecom)
        except DeliveryError as error:
            yield Finding(Level.FAIL, config.redact(str(error)), "see [wecom] in the config")
            continue
        yield Finding(Level.OK, f"{channel}: {_last(config, channel)}")
        note = _note(config, channel)
        if note:
            yield Finding(Level.WARN, f"{channel}, at its last message: {note}", "see [wecom] in the config")


def ping_findings(config: Config) -> Iterator[Finding]:
    if config.ping is None:
        return
    try:
        host = http.host_of(config.ping.url.reveal())
        journal = Journal.open_to_read(config.state_dir)
        error = journal.recall(tick.PING_ERROR) if journal else None
    except (SecretError, JournalError):
        return  # reported in another section
    if error:
        yield Finding(Level.FAIL, f"ping: {error}", "see [ping] in the config")
    else:
        yield Finding(Level.OK, f"ping: the monitor at {host}")


def _last(config: Config, channel: str) -> str:
    try:
        journal = Journal.open_to_read(config.state_dir)
        at = journal.last_delivery(channel) if journal else None
    except JournalError:
        at = None
    last = (
        f"last message {clock.local(at):%Y-%m-%d %H:%M}" if at else "no message yet; doctor --send-test-alert tries it"
    )
    return f"logged in, {last}" if channel == "wecom_app" else last


def _note(config: Config, channel: str) -> str | None:
    """The channel's note about its last message, for example unknown receivers."""
    try:
        journal = Journal.open_to_read(config.state_dir)
        return journal.recall(f"{channel}.note") if journal else None
    except JournalError:
        return None


def test_alert_findings(config: Config) -> Iterator[Finding]:
    text = wording.test_alert(os.uname().nodename, clock.local(clock.now()), config.language)
    if not config.alert_channels:
        yield Finding(Level.FAIL, "no test alert was sent: there is no [wecom]", "add [wecom] webhook")
    for tally in delivery.deliver_directly(config, events.messages(config, text, mention=True)):
        if tally.delivered:
            yield Finding(
                Level.OK, f"{tally.destination}: a test alert was sent{''.join(f'; {x}' for x in tally.said)}"
            )
        else:
            yield Finding(Level.FAIL, f"{tally.destination}: {' '.join(tally.said)}", "see [wecom] in the config")
