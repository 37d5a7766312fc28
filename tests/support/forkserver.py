"""Runs the command line in forks of one warm interpreter, since most of a command's time is the start and the imports.

``python -m tests.support.forkserver SOCKET`` imports what commands import, runs nothing, and forks a child for each
request: with the request's own environment, directory and streams, as ``python -m restart_guard`` would have it. What
only a real start gives (PYTHON* variables, preloaded libraries, another locale) is not asked of it.
"""

import atexit
import contextlib
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.services import PROGRAMS

_LENGTH = struct.Struct("!I")
# Imported late by the product, for what its tick must not pay for.
_LATE = (
    *("alerts.ping", "journal.delivery", "programs.probe", "redis_server.client", "terminal_rich", "__main__"),
    *("standby.member", "doctor.examine", "demo.story"),
)
_LATE_OUTSIDE = ("difflib", "encodings.idna", "hashlib", "inotify_simple", "ipaddress", "tempfile", "traceback")
_START_ONLY = ("PYTHON", "LD_", "LC_", "FAKETIME", "RG_PORTABLE")


def can_fork(environ: Mapping[str, str]) -> bool:
    """Whether a fork of a warm interpreter behaves as a real start with this environment would."""
    ours = {"PYTHONPATH"} if environ.get("PYTHONPATH") == str(PROGRAMS) else set()
    special = [name for name in environ if name.startswith(_START_ONLY) and name not in ours]
    return not special and environ.get("LANG") == "C.UTF-8"


class ForkServer:
    """The client's side: starts the server, which ends when this end of its socket is closed."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forkserver", str(theirs.fileno())],
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
                cwd=Path(__file__).parents[2],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def close(self) -> None:
        self._socket.close()
        self._process.wait(10)

    def run(
        self, arguments: list[str], *, cwd: Path, environ: Mapping[str, str], seconds: float
    ) -> tuple[int, bytes, bytes]:
        """Run a command line: its exit code (negative for a signal) and its output, both streams to their end.

        Raises subprocess.TimeoutExpired, having killed it.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        request = json.dumps({"arguments": arguments, "cwd": str(cwd), "environ": dict(environ)}).encode()
        socket.send_fds(self._socket, [b"!"], [theirs.fileno(), out_end, err_end])
        theirs.close()
        os.close(out_end)
        os.close(err_end)
        with ours:
            ours.sendall(_LENGTH.pack(len(request)) + request)
            (pid,) = _LENGTH.unpack(_receive(ours, _LENGTH.size))
            try:
                texts = _read_all((out, err), seconds)
                ours.settimeout(seconds)
                (status,) = _LENGTH.unpack(_receive(ours, _LENGTH.size))
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired("restart-guard", seconds) from None
            finally:
                os.close(out)
                os.close(err)
        return os.waitstatus_to_exitcode(status), *texts


def _read_all(pipes: tuple[int, int], seconds: float) -> tuple[bytes, bytes]:
    """What comes from two pipes until both are closed at the other end. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    texts = dict.fromkeys(pipes, b"")
    left = set(pipes)
    while left:
        ready = select.select(list(left), [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ready:
            raise TimeoutError
        for pipe in ready:
            part = os.read(pipe, 65536)
            texts[pipe] += part
            if not part:
                left.remove(pipe)
    return texts[pipes[0]], texts[pipes[1]]


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError("the fork server has ended")
        data += part
    return data


def _serve(server: socket.socket) -> None:
    """Fork for each request, and say with which status each child has ended. Returns only in a child, to run."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    running: dict[int, socket.socket] = {}
    while True:
        ready = select.select([server.fileno(), woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
        for pid, connection in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del running[pid]
                with connection, contextlib.suppress(OSError):
                    connection.sendall(_LENGTH.pack(status))
        if server.fileno() not in ready:
            continue
        data, fds, _, _ = socket.recv_fds(server, 1, 3)
        if not data:
            sys.exit(0)
        connection = socket.socket(fileno=fds[0])
        pid = os.fork()
        if pid == 0:
            (length,) = _LENGTH.unpack(_receive(connection, _LENGTH.size))
            request = json.loads(_receive(connection, length))
            for one in (server, connection, *running.values()):
                one.detach()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(fds[1], 1)
            os.dup2(fds[2], 2)
            os.closerange(3, 256)
            _become(request)
            return
        for fd in fds[1:]:
            os.close(fd)
        running[pid] = connection
        connection.sendall(_LENGTH.pack(pid))


def _become(request: Mapping[str, Any]) -> None:
    """A process as a real start would have made it."""
    os.environ.clear()
    os.environ.update(request["environ"])
    time.tzset()
    os.chdir(request["cwd"])
    sys.argv[1:] = request["arguments"]
    # The streams were made for other descriptors, and know whether these can seek.
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    if "RG_KILL_IN" in os.environ or "RG_CLOCK_SHIFT" in os.environ:
        # The interpreter would have imported it from PYTHONPATH at its start.
        spec = importlib.util.spec_from_file_location("sitecustomize", PROGRAMS / "sitecustomize.py")
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def _run_and_exit() -> None:
    """As the interpreter ends a program, but for taking its modules apart, which takes longer than most commands."""
    try:
        importlib.import_module("restart_guard.__main__").main()
    except SystemExit as done:
        code = int(done.code or 0)
    except BaseException:  # noqa: BLE001 (as the interpreter shows it)
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _warm_up() -> None:
    commands = importlib.import_module("restart_guard.cli").COMMANDS
    for name in [f"commands.{module}" for module, _ in commands.values()] + list(_LATE):
        importlib.import_module(f"restart_guard.{name}")
    for name in _LATE_OUTSIDE:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _warm_up()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    _run_and_exit()
