"""The doctor's findings about WeCom and the monitor."""

import os
from collections.abc import Iterator
from functools import partial

from restart_guard import clock
from restart_guard.alerts import http, wecom, wording
from restart_guard.config.options import Alert, Config
from restart_guard.config.secrets import Secret
from restart_guard.config.wording import key
from restart_guard.doctor.finding import Finding, Level
from restart_guard.errors import DeliveryError, JournalError, SecretError
from restart_guard.journal import delivery
from restart_guard.journal.journal import Journal
from restart_guard.programs import tick


def wecom_findings(config: Config) -> Iterator[Finding]:
    if not config.alert_channels:
        advice = "add [wecom] webhook, or an [alerts.NAME]"
        yield Finding(Level.WARN, "no [wecom]: nobody is alerted when a check stays bad", advice)
        return
    for channel in config.alert_channels:
        where = (
            f"see [alerts.{key(channel)}] in the config" if channel in config.alerts else "see [wecom] in the config"
        )
        try:
            if channel in config.alerts:
                _reveal_all(config.alerts[channel])
            elif channel == "wecom_app" and config.wecom is not None:
                wecom.App(config.wecom, config.state_dir).fetch_token()
            elif config.wecom is not None:
                wecom.Robot(config.wecom)
        except (DeliveryError, SecretError) as error:
            yield Finding(Level.FAIL, config.redact(str(error)), where)
            continue
        yield Finding(Level.OK, f"{channel}: {_last(config, channel)}")
        note = _note(config, channel)
        if note:
            yield Finding(Level.WARN, f"{channel}, at its last message: {note}", where)


def _reveal_all(alert: Alert) -> None:
    """Raises SecretError for a secret that cannot be read."""
    for name in alert.options.__struct_fields__:
        value = getattr(alert.options, name)
        if isinstance(value, Secret):
            value.reveal()


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


def test_alert_findings(config: Config, name: str) -> Iterator[Finding]:
    """To all channels, or to the one of this name."""
    at = clock.local(clock.now())
    words = partial(wording.test_alert, os.uname().nodename, at)
    if not config.alert_channels:
        advice = "add [wecom] webhook, or an [alerts.NAME]"
        yield Finding(Level.FAIL, "no test alert was sent: there is no [wecom]", advice)
    elif name and name not in config.alert_channels:
        advice = f"one of {', '.join(config.alert_channels)}"
        yield Finding(Level.FAIL, f"no test alert was sent: there is no alert channel {name}", advice)
    everywhere = [
        (channel, {"text": words(config.language_of(channel)), "mention": True}) for channel in config.alert_channels
    ]
    for tally in delivery.deliver_directly(config, [one for one in everywhere if name in ("", one[0])]):
        if tally.delivered:
            yield Finding(
                Level.OK, f"{tally.destination}: a test alert was sent{''.join(f'; {x}' for x in tally.said)}"
            )
        else:
            section = f"alerts.{key(tally.destination)}" if tally.destination in config.alerts else "wecom"
            yield Finding(Level.FAIL, f"{tally.destination}: {' '.join(tally.said)}", f"see [{section}] in the config")
