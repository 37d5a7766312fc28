"""The metrics, by Prometheus' own tools."""

import json
import random
import re
import subprocess
import urllib.request
from pathlib import Path

import pytest

from restart_guard.journal.journal import Journal
from restart_guard.reports.metrics import text
from restart_guard.reports.summary import summary
from tests.conftest import Database, Guard
from tests.reports.conftest import HOSTILE, config_of, fill
from tests.support.servers import find_program, free_port, wait_until

CONTRIB = Path(__file__).parents[2] / "contrib"
_NAMES = """
build_info tick_timestamp_seconds target_up target_state target_start_timestamp_seconds target_relaunches_total
target_down_seconds_total check_ok check_last_run_timestamp_seconds check_last_success_timestamp_seconds
check_next_run_timestamp_seconds check_missed check_duration_seconds check_keys check_bad_keys
check_expires_timestamp_seconds
refresh_last_success_timestamp_seconds refresh_rows refresh_drift_rows deliveries_pending
deliveries_oldest_timestamp_seconds standby_leader
"""
NAMES = set(_NAMES.split())


def promtool(*arguments: str, given: str = "") -> str:
    done = subprocess.run(
        [find_program("promtool"), *arguments], input=given, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.server
def test_prometheus_takes_them(tmp_path: Path, chance: random.Random) -> None:
    """promtool finds nothing to say, every name is there, and none has a time stamp."""
    more = '[standby]\ngroup = "g"\ntargets = []\n'
    config = config_of(tmp_path, targets=5, checks=3, more=more)
    fill(config, chance)
    with Journal.open(config.state_dir) as journal:
        found = text(config, summary(config, journal))
    assert promtool("check", "metrics", given=found) == ""
    names = {line.split("{")[0].removeprefix("restart_guard_") for line in found.splitlines() if line[0] != "#"}
    missing = NAMES - names
    assert missing == {"target_start_timestamp_seconds"}  # none of them runs
    assert all(len(line.rpartition("} ")[2].split()) == 1 for line in found.splitlines() if line[0] != "#")
    assert not any(key in found for key in ('"k0"', "onerror"))


@pytest.mark.server
def test_a_real_scrape(guard: Guard) -> None:
    """node_exporter takes the file that a tick writes, with whatever names the operator has chosen."""
    (guard.directory / "text").mkdir()
    names = ['a"b\\\\c', HOSTILE[0].replace("/", ""), "数据"]
    targets = "".join(f'[targets.{json.dumps(name)}]\nprogram = "x{number}.sh"\n' for number, name in enumerate(names))
    guard.configure(f'[metrics]\ntextfile = "text/restart_guard.prom"\n{targets}')
    assert guard("restart").code == 0
    assert (guard.directory / "text/restart_guard.prom").stat().st_mode & 0o777 == 0o644
    port = free_port()
    only = (
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={guard.directory}/text",
    )
    exporter = [find_program("prometheus-node-exporter"), *only, f"--web.listen-address=127.0.0.1:{port}"]
    with subprocess.Popen(exporter, stderr=subprocess.DEVNULL) as process:
        try:
            found = wait_until(lambda: scraped(port), what="the exporter")
        finally:
            process.kill()
    assert "node_textfile_scrape_error 0" in found
    assert found.count("restart_guard_target_up{") == 3
    assert 'target="数据"' in found


def scraped(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.mark.server
def test_the_rules() -> None:
    """As Prometheus reads them, and they fire when they should; they speak of metrics that there are."""
    folder = CONTRIB / "prometheus"
    promtool("check", "rules", str(folder / "restart_guard.rules.yml"))
    promtool("test", "rules", str(folder / "restart_guard.test.yml"))
    known = {f"restart_guard_{name}" for name in NAMES}
    for path in (folder / "restart_guard.rules.yml", CONTRIB / "grafana/prometheus.json"):
        used = set(re.findall(r"restart_guard_\w+\b(?!\.)", path.read_text()))
        assert len(used) > 5
        assert used <= known


def test_the_dashboard_asks_what_mysql_answers(guard: Guard, database: Database) -> None:
    """Each of its queries, with Grafana's macros as it fills them in."""
    guard.configure(f'[mysql]\nsocket = "{database.server.socket}"\nuser = "root"\ndatabase = "{database.name}"\n')
    assert guard("init-db").code == 0
    board = json.loads((CONTRIB / "grafana/task_monitor.json").read_text())
    for panel in board["panels"]:
        (target,) = panel["targets"]
        column = "task_execution_time BETWEEN FROM_UNIXTIME(0) AND FROM_UNIXTIME(2000000000)"
        sql = target["rawSql"].replace("$__timeFilter(task_execution_time)", column)
        assert "$" not in sql
        database.server.run(sql, database=database.name)
