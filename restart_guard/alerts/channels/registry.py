"""The kinds of channels. A new one is a file here and a line below; CONTRIBUTING.md says what the file holds."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct


def kinds() -> dict[str, Any]:
    """The module of each kind, by its name."""
    # Only a config that has [alerts] pays for them; what they need to send, they import when they send.
    from restart_guard.alerts.channels import (  # noqa: F401 (locals() has them)
        command,
        dingtalk,
        email,
        feishu,
        ntfy,
        pagerduty,
        slack,
        telegram,
        webhook,
    )

    return dict(locals())


def options() -> Mapping[str, type[Struct]]:
    """The options of each kind, for the reader of the config."""
    return {kind: module.Options for kind, module in kinds().items()}
