"""Kills the interpreter that imports it at one line of restart-guard's code, as a power cut would.

Also: ``RG_PORTABLE`` makes it use the process layer for hosts without /proc, ``RG_CLOCK_SHIFT`` steps the wall clock by
so many seconds.

Python imports a module of this name at its start when its folder is on PYTHONPATH. ``RG_KILL_AT`` is the number of the
line event, among those of the modules in ``RG_KILL_IN``, at which the process sends itself SIGKILL; without a number
the events are counted into the file ``RG_COUNT_TO``. No code of the product takes part.
"""

import atexit
import importlib
import itertools
import os
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

_MODULES = tuple(f"/restart_guard/{name}.py" for name in os.environ.get("RG_KILL_IN", "").split(",") if name)
_AT = int(os.environ.get("RG_KILL_AT", "0"))
_lock = threading.Lock()
_events = itertools.count(1)
_first: dict[tuple[str, int], int] = {}


def _line(frame: FrameType, event: str, _argument: Any) -> Any:
    if event == "line":
        with _lock:
            number = next(_events)
            _first.setdefault((frame.f_code.co_filename, frame.f_lineno), number)
            if number == _AT:
                os.kill(os.getpid(), signal.SIGKILL)
    return _line


def _call(frame: FrameType, _event: str, _argument: Any) -> Any:
    return _line if frame.f_code.co_name != "<module>" and frame.f_code.co_filename.endswith(_MODULES) else None


def _report() -> None:
    Path(os.environ["RG_COUNT_TO"]).write_text("".join(f"{number}\n" for number in sorted(_first.values())))


if "RG_PORTABLE" in os.environ:
    sys.modules["restart_guard.host.linux"] = importlib.import_module("restart_guard.host.portable")
if "RG_CLOCK_SHIFT" in os.environ:
    _clock = importlib.import_module("restart_guard.clock")
    _now, _shift = _clock.now, timedelta(seconds=float(os.environ["RG_CLOCK_SHIFT"]))
    _clock.now = lambda: _now() + _shift  # type: ignore[attr-defined]
if _MODULES:
    sys.settrace(_call)
    threading.settrace(_call)
    if "RG_COUNT_TO" in os.environ:
        atexit.register(_report)
