"""The processes of this host: by /proc and pidfds on Linux, elsewhere through psutil, with the same functions."""

import sys

if sys.platform == "linux":
    from restart_guard.host.linux import (
        Deaths,
        become_subreaper,
        boot_id,
        environment,
        environment_entry,
        everybody,
        executable,
        facts,
        give_number,
        identity,
        inherited_number,
        look,
        owner,
        send,
        shares_namespaces,
        survives,
        uptime_s,
        wait,
    )
else:
    from restart_guard.host.portable import (
        Deaths,
        become_subreaper,
        boot_id,
        environment,
        environment_entry,
        everybody,
        executable,
        facts,
        give_number,
        identity,
        inherited_number,
        look,
        owner,
        send,
        shares_namespaces,
        survives,
        uptime_s,
        wait,
    )

__all__ = [
    "Deaths",
    "become_subreaper",
    "boot_id",
    "environment",
    "environment_entry",
    "everybody",
    "executable",
    "facts",
    "give_number",
    "identity",
    "inherited_number",
    "look",
    "owner",
    "send",
    "shares_namespaces",
    "survives",
    "uptime_s",
    "wait",
]
