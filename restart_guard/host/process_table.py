"""The processes of this host: by /proc and pidfds on Linux, elsewhere through psutil, with the same functions."""

import sys

if sys.platform == "linux":
    from restart_guard.host.linux import (
        Deaths,
        boot_id,
        environment_entry,
        everybody,
        facts,
        identity,
        look,
        owner,
        send,
        survives,
        uptime_s,
        wait,
    )
else:
    from restart_guard.host.portable import (
        Deaths,
        boot_id,
        environment_entry,
        everybody,
        facts,
        identity,
        look,
        owner,
        send,
        survives,
        uptime_s,
        wait,
    )

__all__ = [
    "Deaths",
    "boot_id",
    "environment_entry",
    "everybody",
    "facts",
    "identity",
    "look",
    "owner",
    "send",
    "survives",
    "uptime_s",
    "wait",
]
