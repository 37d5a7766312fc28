"""A takeover or a step-down: recorded in the journal, and alerted."""

from collections.abc import Callable

from restart_guard import clock
from restart_guard.alerts.wording import Language
from restart_guard.config.options import Config
from restart_guard.errors import JournalError
from restart_guard.journal import delivery, events
from restart_guard.journal.journal import Journal
from restart_guard.standby import messages

KIND = "standby"

Message = Callable[[Language], str]
"""A sentence, in the language that is asked for."""


def english(head: Message, detail: Message | None) -> str:
    return f"{head('en')}; {detail('en')}" if detail is not None else head("en")


def record(config: Config, group: str, head: Message, detail: Message | None) -> None:
    """Keep it in the journal and deliver the alert; directly, if the journal cannot be written."""
    at = clock.local(clock.now())

    def words(language: Language) -> str:
        return messages.alert(head(language), detail(language) if detail else "", language=language, at=at)

    alerts = events.messages(config, (KIND, group), words, mention=True)
    try:
        with Journal.open(config.state_dir) as journal, journal.transaction():
            events.append(config, journal, (KIND, group), ok=True, detail=english(head, detail), deliveries=alerts)
    except JournalError:
        delivery.deliver_directly(config, alerts)
        return
    delivery.deliver(config, delivery.Which.PENDING)
