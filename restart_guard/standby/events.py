"""A takeover or a step-down: kept in the journal, and told to a person."""

import os
from collections.abc import Callable

from restart_guard import clock
from restart_guard.alerts.wording import Language
from restart_guard.config.options import Config
from restart_guard.errors import JournalError
from restart_guard.ids import new_run_id
from restart_guard.journal import delivery
from restart_guard.journal.journal import Event, Journal
from restart_guard.standby import messages

KIND = "standby"

Words = Callable[[Language], str]


def english(head: Words, detail: Words | None) -> str:
    return f"{head('en')}; {detail('en')}" if detail is not None else head("en")


def record(config: Config, group: str, head: Words, detail: Words | None) -> None:
    """Journal it and deliver the alert; directly, when the journal cannot be written."""
    language: Language = config.wecom.language if config.wecom else "zh"
    now = clock.now()
    text = messages.alert(head(language), detail(language) if detail else "", language=language, at=clock.local(now))
    alerts = [(channel, {"text": config.redact(text), "mention": True}) for channel in config.alert_channels]
    event = Event(
        *(new_run_id(), now, KIND, group, "success", config.redact(english(head, detail))),
        {"host": os.uname().nodename},
    )
    try:
        with Journal.open(config.state_dir) as journal, journal.transaction():
            journal.append(event, alerts)
    except JournalError:
        delivery.deliver_directly(config, alerts)
        return
    delivery.deliver(config, delivery.Which.PENDING)
