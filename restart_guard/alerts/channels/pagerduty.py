"""PagerDuty: an event that opens or resolves an incident of theirs (developer.pagerduty.com/docs/events-api-v2)."""

import os
from pathlib import Path
from typing import Any

from msgspec import Struct

from restart_guard.alerts.channels.post import Far, Message, by_status, post, reveal
from restart_guard.config.options import Text
from restart_guard.config.secrets import Secret

_NAME = "PagerDuty"


class Options(Struct, frozen=True, kw_only=True):
    routing_key: Secret
    api_base: Text = "https://events.pagerduty.com"
    proxy: Secret | None = None
    ca_file: Path | None = None


def send(options: Options, message: Message) -> None:
    """Raises DeliveryError. One incident of ours is one of theirs, by its number; a recovery resolves it."""
    body: dict[str, Any] = {
        "routing_key": reveal(options.routing_key),
        "event_action": "resolve" if message.recovered else "trigger",
        "payload": {
            "summary": message.subject[:1024],
            "source": os.uname().nodename,
            "severity": "critical" if message.mention else "info",
            "custom_details": {"text": message.text},
        },
    }
    if message.incident:
        body["dedup_key"] = f"restart-guard/{message.incident}"
    reply = post(Far(_NAME, options.proxy, options.ca_file), f"{options.api_base.rstrip('/')}/v2/enqueue", body)
    if reply.status != 202 or reply.data.get("status") != "success":
        raise by_status(_NAME, reply, "check routing_key")
