"""Real servers as targets: docs/lineage.md holds with what people really run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from restart_guard.host import process_table
from tests.conftest import Guard
from tests.support.real import Real, children_of, kill, real_program, wait_gone
from tests.support.servers import RedisServer, free_port, wait_until
from tests.support.services import watching

QUICK = 'restart_backoff = { base = "10ms", max = "100ms" }\nmin_uptime = "300ms"\nstop_timeout = "10s"\n'
NOHUP = "nohup {program} -p . -c nginx.conf -g 'daemon off;' > /dev/null 2>&1 &"


@pytest.fixture
def real(guard: Guard) -> Iterator[Real]:
    with real_program(guard) as one:
        yield one


def master_of(real: Real) -> int:
    """The nginx master that serves: the one with workers."""
    pid = real.pid()
    wait_until(lambda: len(children_of(pid)) >= 2, what="its workers")
    return pid


def masters_below(old: int) -> list[int]:
    return [pid for pid in children_of(old) if len(children_of(pid)) >= 2]


@pytest.mark.parametrize(
    "command", [NOHUP, "{program} -p . -c nginx.conf -g 'daemon off;'", "{program} -p . -c nginx.conf"]
)
def test_a_killed_nginx_master_is_relaunched_and_its_workers_ended_first(real: Real, command: str) -> None:
    """Started by nohup, in the foreground, and as a daemon: no worker is ever taken for the master."""
    real.nginx()
    shell = "shell = true\n" if command is NOHUP else ""
    guard = real.configure("nginx", command, QUICK + shell)
    assert guard("start").code == 0
    for _ in range(2):
        master = master_of(real)
        workers = children_of(master)
        kill(master)
        done = guard("restart")
        assert "ended orphans: nginx" in done.out, done
        again = master_of(real)
        assert again not in (master, *workers)
        assert not [pid for pid in workers if process_table.identity(pid) is not None]
        assert real.answers()
        assert real.status()["state"] == "running"
    assert guard("stop").code == 0
    assert real.processes() == []


def test_nginx_by_nohup_is_back_at_once_each_time(real: Real) -> None:
    """The line that people have, under watch, killed thirty times, the master or all of it."""
    real.nginx()
    guard = real.configure("nginx", NOHUP, f"{QUICK}shell = true\n")
    guard("start")
    with watching(guard):
        for number in range(30):
            master = master_of(real)
            for pid in [master, *(children_of(master) if number % 3 == 0 else [])]:
                os.kill(pid, signal.SIGKILL)
            begun = time.monotonic()
            wait_until(lambda: real.status()["pid"] not in (None, master) and real.answers(), what="nginx", timeout=15)  # noqa: B023
            assert time.monotonic() - begun < 10
    assert guard("stop").code == 0
    assert real.processes() == []


def test_an_nginx_upgraded_in_place_goes_on(real: Real) -> None:
    """USR2, then QUIT to the old master: the new one is the program, for the tick and for watch, without a gap."""
    real.nginx()
    guard = real.configure("nginx", "{program} -p . -c nginx.conf -g 'daemon off;'", QUICK)
    guard("start")
    for _ in range(2):
        old = master_of(real)
        os.kill(old, signal.SIGUSR2)
        new = wait_until(lambda: masters_below(old), what="the new master")[0]  # noqa: B023
        os.kill(old, signal.SIGQUIT)
        wait_gone([old])
        assert "goes on" in guard("restart").out
        assert real.pid() == new
        assert real.answers()
    assert guard("stop").code == 0
    assert real.processes() == []


def test_another_redis_server_is_no_business_of_ours(real: Real) -> None:
    """The same executable with other arguments: start launches ours beside it, stop ends only ours."""
    binary = real.copy("/usr/bin/redis-server")
    other_port = free_port()
    with subprocess.Popen(
        [binary, "--port", str(other_port), "--save", ""], cwd=real.folder, stdout=subprocess.DEVNULL
    ) as other:
        try:
            guard = real.configure("redis-server", f"{{program}} --port {real.port} --save ''", QUICK)
            wait_until(lambda: is_listening(other_port), what="the other server")
            started = guard("start")
            assert (started.code, f"pid {other.pid}" in started.out) == (0, True)
            assert real.pid() != other.pid
            wait_until(lambda: is_listening(real.port), what="our server")
            kill(real.pid())
            assert "relaunched" in guard("restart").out
            assert guard("kill").code == 0
            assert guard("stop").code == 0
            assert other.poll() is None
        finally:
            other.kill()


def is_listening(port: int) -> bool:
    return f"0100007F:{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text() or (
        f"00000000:{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text()
    )


def gunicorn(real: Real, more: str = "") -> Guard:
    return real.configure(
        real.gunicorn(), f"{{python}} {{program}} -b 127.0.0.1:{real.port} -w 2 {more} app:app", QUICK
    )


def test_a_gunicorn_upgraded_in_place_fails_no_request(real: Real) -> None:
    """With titles that hide all marks: USR2, then TERM to the old master, ticks and a watch beside it."""
    guard = gunicorn(real)
    guard("start")
    old = master_of(real)
    with watching(guard):
        os.kill(old, signal.SIGUSR2)
        new = wait_until(lambda: masters_below(old), what="the new master")[0]
        os.kill(old, signal.SIGTERM)
        for _ in range(20):
            assert real.get("0.05") in (str(old), str(new))
        wait_gone([old])
        wait_until(lambda: real.status()["pid"] == new, what="the new master to be guarded")
        assert guard("restart").out == ""
        assert real.get() == str(new)
    assert guard("stop").code == 0
    assert real.processes() == []


def test_a_gunicorn_daemon_is_found_and_stopped(real: Real) -> None:
    """It leaves its session and overwrites its environment; nothing of it is left after a stop, nor after a kill -9."""
    guard = gunicorn(real, "--daemon --log-file app.log")
    done = guard("start")
    assert done.code == 0, done
    wait_until(real.answers, what="gunicorn")
    master = int(real.get())
    assert real.pid() == master
    workers = children_of(master)
    kill(master)
    assert "relaunched" in guard("restart").out
    wait_until(lambda: real.answers() and real.get() == str(real.pid()), what="the new master")
    assert not set(workers) & set(children_of(real.pid()))
    assert guard("stop").code == 0
    assert real.processes() == []
    assert not real.answers()


def test_a_celery_worker_finishes_its_task_before_it_stops(real: Real, redis_server: RedisServer) -> None:
    """TERM to all its processes at once would lose the task (WorkerLostError)."""
    done = real.folder / "done"
    (real.folder / "tasks.py").write_text(
        f"import time\nfrom celery import Celery\napp = Celery('tasks', broker={redis_server.url!r})\n"
        "@app.task\n"
        f"def work():\n    open({str(done)!r} + '.begun', 'w').close()\n    time.sleep(3)\n"
        f"    open({str(done)!r}, 'w').close()\n"
    )
    entry = real.folder / "worker.py"
    entry.write_text("from celery.__main__ import main\nmain()\n")
    command = "{python} {program} -A tasks worker -c 2 --without-gossip --without-mingle"
    guard = real.configure(str(entry), command, QUICK.replace('"10s"', '"30s"'))
    assert guard("start").code == 0
    begun = Path(f"{done}.begun")
    send = [sys.executable, "-c", "from tasks import work; work.delay()"]
    subprocess.run(send, cwd=real.folder, check=True)
    wait_until(begun.exists, what="the task", timeout=40)
    stopped = guard("stop")
    assert stopped.code == 0, stopped
    assert done.exists()
    assert real.processes() == []


def test_a_node_cluster_answers_what_it_has_begun(real: Real) -> None:
    """Its primary waits for the end of its workers; TERM to all at once would cut a request in two."""
    (real.folder / "serve.js").write_text(
        "const cluster = require('cluster'), http = require('http');\n"
        "if (cluster.isMaster) {\n"
        "  for (let i = 0; i < 2; i++) cluster.fork();\n"
        "  cluster.on('exit', () => { if (!Object.keys(cluster.workers).length) process.exit(0); });\n"
        "  process.on('SIGTERM', () => Object.values(cluster.workers).forEach((one) => one.send('stop')));\n"
        "} else {\n"
        "  process.on('message', () => server.close(() => process.exit(0)));\n"
        "  const server = http.createServer((q, r) => { console.log('begun'); setTimeout(() => r.end('ok'), 1500); })"
        f".listen({real.port}, '127.0.0.1');\n"
        "}\n"
    )
    real.copy("/usr/bin/node")
    guard = real.configure("node", "{program} serve.js", QUICK)
    assert guard("start").code == 0
    wait_until(lambda: len(real.processes()) == 3 and is_listening(real.port), what="the cluster")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(real.get)
        wait_until(lambda: "begun" in (real.folder / "app.log").read_text(), what="the request")
        assert guard("stop").code == 0
        assert answer.result() == "ok"
    assert real.processes() == []


def test_php_fpm_as_a_daemon_is_one(real: Real) -> None:
    """Its launcher leaves when the daemon is ready, which may take longer than min_uptime: start, then watch."""
    binary = real.copy(*map(str, Path("/usr/sbin").glob("php-fpm*")))
    user = "user = root\ngroup = root\n" if os.geteuid() == 0 else ""
    (real.folder / "fpm.conf").write_text(
        f"[global]\nerror_log = {real.folder}/fpm.log\n[www]\nlisten = 127.0.0.1:{real.port}\n{user}"
        "pm = static\npm.max_children = 2\n"
    )
    root = "-R " if os.geteuid() == 0 else ""
    quick = QUICK.replace('"300ms"', '"10ms"')
    guard = real.configure(binary.name, f"{{program}} {root}-D -y {real.folder}/fpm.conf", quick)
    assert guard("start").code == 0
    with watching(guard):
        wait_until(lambda: len(children_of(real.pid())) == 2, what="its workers")
        first = real.pid()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: real.status()["pid"] not in (None, first), what="another master")
        wait_until(lambda: len(children_of(real.pid())) == 2, what="its workers")
        assert len(real.processes()) == 3
    assert guard("stop").code == 0
    assert real.processes() == []


MANY = " ".join(f"-Dname{number}=value" for number in range(20))
JAVA = f"-Xmx32m {MANY} --add-opens java.base/java.lang=ALL-UNNAMED -jar"


@pytest.mark.parametrize(
    ("before", "program", "source"),
    [
        (["java", *JAVA.split()], "app.jar", ""),
        (["node", "-r", "./x.js"], "app.js", "setInterval(() => {}, 1000)"),
        (["php", "-d", "display_errors=0"], "app.php", "<?php sleep(600);"),
        (["perl", "-I", "lib"], "app.pl", "sleep 600"),
        ([sys.executable, "-X", "utf8", "-W", "ignore"], "app.py", "import time\ntime.sleep(600)"),
        (["bash", "-o", "pipefail"], "app.sh", "while :; do read -t 600 < /dev/zero; sleep 600; done"),
    ],
)
def test_options_with_values_hide_no_program(real: Real, before: list[str], program: str, source: str) -> None:
    """Started by hand with options before the program: start adopts it, and one with other arguments it does not."""
    (real.folder / program).write_text(source) if source else real.jar()
    (real.folder / "x.js").write_text("")
    guard = real.configure(program, " ".join([*before, "{program}", "serve"]), QUICK)
    with subprocess.Popen([*before, program, "serve"], cwd=real.folder, stdin=subprocess.DEVNULL) as hand:
        try:
            wait_until(lambda: real.status()["state"] == "unguarded", what="the program to be seen")
            assert real.status()["pid"] == hand.pid
            guard.config.write_text(guard.config.read_text().replace("} serve", "} shell"))
            assert real.status()["state"] == "stopped"
            guard.config.write_text(guard.config.read_text().replace("} shell", "} serve"))
            assert "already runs" in guard("start").out
            assert guard("stop").code == 0
            assert hand.wait(10) is not None
        finally:
            hand.kill()


def test_another_job_of_the_same_script_is_not_the_server(real: Real) -> None:
    """manage.py shell beside manage.py runserver, also when the server is dead: relaunched, and the shell untouched."""
    script = real.folder / "manage.py"
    script.write_text("import sys, time\nprint('ready', sys.argv[1:], flush=True)\ntime.sleep(600)\n")
    guard = real.configure("manage.py", "{python} {program} runserver", QUICK)
    guard("start")
    server = real.pid()
    with subprocess.Popen([sys.executable, "manage.py", "shell"], cwd=real.folder, stdout=subprocess.PIPE) as shell:
        try:
            assert shell.stdout is not None
            shell.stdout.readline()
            kill(server)
            assert "relaunched" in guard("restart").out
            assert real.pid() not in (server, shell.pid)
            guard("kill")
            assert guard("stop").code == 0
            assert shell.poll() is None
            assert f"pid {shell.pid}" in guard("start").out
            guard("stop")
            assert shell.poll() is None
        finally:
            shell.kill()
