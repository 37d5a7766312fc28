"""docs/recipes.md, literally: each is started, killed and stopped, with the program itself."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Guard
from tests.support.real import Real, kill, real_program
from tests.support.servers import RedisServer, wait_until
from tests.test_docs import ROOT

TEXT = (ROOT / "docs/recipes.md").read_text()
RECIPES: dict[str, str] = {
    name: text for text, name in re.findall(r"```toml\n(\[targets\.(.+?)\]\n.+?)```", TEXT, re.DOTALL)
}


@pytest.fixture
def real(guard: Guard) -> Iterator[Real]:
    with real_program(guard) as one:
        yield one


def prepare(real: Real, name: str, redis_server: RedisServer) -> str:
    """The files that a recipe speaks of, and the recipe with a free port and, of /usr/sbin, a copy of the program."""
    text = RECIPES[name].replace("8000", str(real.port))
    scripts = Path(sys.executable).parent
    (real.folder / ".venv/bin").mkdir(parents=True)
    for script in ("gunicorn", "uvicorn", "celery"):
        shutil.copy(scripts / script, real.folder / ".venv/bin" / script)
    real.gunicorn()
    (real.folder / "asgi.py").write_text("async def app(scope, receive, send):\n    pass\n")
    (real.folder / "tasks.py").write_text(
        f"from celery import Celery\napp = Celery('tasks', broker={redis_server.url!r})\n"
    )
    (real.folder / "server.js").write_text("setInterval(() => {}, 1000)")
    (real.folder / "run.sh").write_text("nohup sleep 600 > /dev/null 2>&1 &\nsleep 0.1\n")
    real.jar()
    if name == "nginx":
        real.nginx()
        return text.replace("/usr/sbin/nginx", "nginx")
    if name == "php-fpm":
        binary = real.copy(*map(str, Path("/usr/sbin").glob("php-fpm*")))
        user = "user = root\ngroup = root\n" if os.geteuid() == 0 else ""
        (real.folder / "fpm.conf").write_text(
            f"[global]\nerror_log = {real.folder}/fpm.log\n[www]\nlisten = 127.0.0.1:{real.port}\n{user}"
            "pm = static\npm.max_children = 2\n"
        )
        root = " -R" if os.geteuid() == 0 else ""  # only the tests run it as root
        text = text.replace("--nodaemonize", f"--nodaemonize{root}")
        return re.sub(r"/usr/sbin/php-fpm[0-9.]*", binary.name, text)
    return text


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe(real: Real, redis_server: RedisServer, name: str) -> None:
    """It starts, comes back after a kill -9 of what runs it, and leaves nothing behind."""
    guard = real.guard.configure(prepare(real, name, redis_server))
    done = guard("start")
    assert done.code == 0, done
    before = real.pid()
    kill(before)
    assert "relaunched" in guard("restart").out
    wait_until(lambda: real.pid() != before, what="another")
    assert guard("stop").code == 0
    assert real.processes() == []


def test_all_that_the_readme_names_has_a_recipe() -> None:
    """And the start script has one."""
    assert {"gunicorn", "uvicorn", "celery", "nginx", "php-fpm", "node", "java", "script"} <= set(RECIPES)
