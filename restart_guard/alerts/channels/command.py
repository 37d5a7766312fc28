"""A command of one's own: the text on its stdin."""

import os
import shlex
import signal
from contextlib import suppress

from msgspec import Struct

from restart_guard.alerts.channels.post import Message
from restart_guard.config.options import Text
from restart_guard.durations import Duration, span
from restart_guard.errors import DeliveryError, why_not_started

_NAME = "The command"


class Options(Struct, frozen=True, kw_only=True):
    """``run`` is split like a shell, and run without one."""

    run: Text
    timeout: Duration = Duration(8)


def send(options: Options, message: Message) -> None:
    """Raises DeliveryError. It has a process group of its own, which is killed when its time is up."""
    # Its options are read in every tick, which runs no command.
    import subprocess

    about = {
        "RESTART_GUARD_INCIDENT": message.incident,
        "RESTART_GUARD_RECOVERED": "1" if message.recovered else "",
        "RESTART_GUARD_MENTION": "1" if message.mention else "",
    }
    try:
        process = subprocess.Popen(
            shlex.split(options.run),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | about,
            start_new_session=True,
        )
    except OSError as error:
        why = why_not_started(error)
        raise DeliveryError(f"{_NAME} could not be started: {why}.", code="start", permanent=False) from error
    try:
        process.communicate(message.text.encode("utf-8", "replace"), timeout=options.timeout)
    except subprocess.TimeoutExpired as error:
        text = f"{_NAME} took longer than {span(options.timeout)}."
        raise DeliveryError(text, code="timeout", permanent=False) from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        text = f"{_NAME} failed with exit status {process.returncode}."
        raise DeliveryError(text, code=str(process.returncode), permanent=False)
