"""The import direction: every module has a rank and imports only modules of a strictly lower one."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "restart_guard"

RANKS = [
    ["restart_guard"],
    ["errors", "clock", "beside", "ids", "durations"],
    ["values"],
    ["config_secrets"],
    ["settings", "identity", "template"],
    ["config_words", "lease"],
    ["config_rules", "jobs", "outcome", "backoff", "incident", "pulse", "lifecycle", "alert_wording"],
    [
        "config",
        "freshness",
        "schedule",
        "crontab_block",
        "systemd_unit",
        "findings",
        "shape",
        "crashes",
        "redis_wording",
    ],
    ["per_key"],
    ["mysql_table"],
    ["messages"],
    ["target_messages", "refresh_messages", "standby_messages"],
    [
        "host_linux",
        "host_psutil",
        "hook",
        "folders",
        "journal_file",
        "lock",
        "redis_client",
        "mysql_client",
        "wire",
        "crontab",
        "systemd",
    ],
    ["host", "pidlock", "journal", "redis_sift", "persistence", "mysql_store", "wecom"],
    ["redis_store"],
    ["process", "permit", "lease_store", "mysql_epoch", "demo_mysql", "ping", "mysql_rows", "scratch"],
    ["redis_copy"],
    ["redis_keys", "fence", "lease_holder"],
    ["delivery"],
    ["guarded"],
    ["standby_kept"],
    ["standby_status"],
    ["drain", "probe", "observe"],
    ["launch"],
    ["target"],
    ["target_events", "timer", "record"],
    ["refresh"],
    ["recovery"],
    ["timer_findings", "target_findings"],
    ["operate"],
    ["check", "guard", "demo"],
    ["standby_findings", "doctor_servers", "doctor_alerts"],
    ["doctor"],
    ["scribe", "leadership", "standby_record"],
    ["standby"],
    ["watch"],
    ["screen"],
    ["terminal"],
    ["session"],
    ["commands"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
PURE = {
    *(
        "values",
        "settings",
        "identity",
        "config_words",
        "per_key",
        "config_rules",
        "config",
        "lifecycle",
        "outcome",
        "backoff",
        "incident",
    ),
    *(
        "template",
        "lease",
        "crontab_block",
        "systemd_unit",
        "findings",
        "pulse",
        "freshness",
        "messages",
        "target_messages",
    ),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    """The name in RANKS; the files of a folder share the folder's."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else "restart_guard" if inside.stem == "__init__" else inside.stem


def imports(path: Path) -> set[str]:
    """The package's own modules that a file imports, those that it names for importlib included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "restart_guard":
            rest = (node.module or "").split(".")[1:]
            found |= {rest[0]} if rest else {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and str(node.value).startswith("restart_guard."):
            found.add(str(node.value).split(".")[1])
    return {name for name in found if name in RANK}


@pytest.mark.parametrize("path", FILES, ids=layer)
def test_a_module_imports_only_lower_ranks(path: Path) -> None:
    """Every file has a rank, and every import points lower."""
    own = RANK[layer(path)]
    assert [name for name in imports(path) if RANK[name] > own or (RANK[name] == own and name != "commands")] == []


@pytest.mark.parametrize("name", sorted(PURE))
def test_decisions_do_no_io(name: str) -> None:
    """Modules that decide or hold values read no clock and open nothing but the config's own files."""
    banned = {"socket", "subprocess", "sqlite3", "redis", "pymysql", "requests", "time", "threading"}
    tree = ast.parse((PACKAGE / f"{name}.py").read_text())
    named = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert named & banned == set()
    assert "clock" not in imports(PACKAGE / f"{name}.py")
