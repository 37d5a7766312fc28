"""The kinds of channels. A new one is a file here and a line below; CONTRIBUTING.md says what the file holds."""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType

from msgspec import Struct

KINDS = (
    "command",
    "dingtalk",
    "email",
    "feishu",
    "ntfy",
    "pagerduty",
    "slack",
    "telegram",
    "webhook",
)


def module(kind: str) -> ModuleType:
    """The module of a kind; only those that a config uses are imported."""
    return importlib.import_module(f"restart_guard.alerts.channels.{kind}")


def _options(kind: str) -> type[Struct]:
    found: type[Struct] = module(kind).Options
    return found


OPTIONS: Mapping[str, Callable[[], type[Struct]]] = {kind: partial(_options, kind) for kind in KINDS}
"""For the reader of the config: the options of each kind."""
