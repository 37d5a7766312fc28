"""Which package may import which: a file imports its own package, or packages of a lower floor."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "restart_guard"

# From the ground up; a name is a package, or a file that stands at the top.
FLOORS = [
    {"errors", "clock", "durations", "counts", "sizes", "backoff", "ids", "paths"},
    {"bug_log"},
    {"threads", "lock", "config", "host"},
    {"dial", "trust"},
    {"alerts", "mysql", "timer"},
    {"redis_server", "journal"},
    {"programs", "refreshes"},
    {"checks", "standby"},
    {"reports"},
    {"demo", "doctor"},
    {"terminal_rich"},
    {"terminal"},
    {"session"},
    {"commands"},
    {"cli"},
    {"entry"},
    {"__main__"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")

# What only decides: values in, decisions and words out.
PURE = {
    "": "backoff durations sizes",
    "alerts": "wording",
    "checks": "messages outcome rules",
    "config": "load options rules secrets template values wording",
    "doctor": "finding",
    "host": "identity",
    "journal": "incident",
    "programs": "crashes health lifecycle messages",
    "redis_server": "wording",
    "refreshes": "messages",
    "reports": "page_style page_words svg",
    "standby": "lease messages",
    "timer": "crontab_block systemd_unit",
}
OUTSIDE = {"socket", "subprocess", "sqlite3", "redis", "pymysql", "requests", "time", "threading"}


def module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def place(name: str) -> str:
    """The package of a module, or the file itself at the top."""
    return name.split(".", maxsplit=1)[0]


MODULES = {module(path) for path in FILES}


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def imports(path: Path) -> frozenset[str]:
    """The modules of ours that a file imports, also late or only for type checkers."""
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "restart_guard":
            base = (node.module or "").split(".")[1:]
            for alias in node.names:
                found = ".".join([*base, alias.name]) if ".".join([*base, alias.name]) in MODULES else ".".join(base)
                if found:
                    names.add(found)
    return frozenset(names)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_file_imports_its_own_package_or_a_lower_floor(path: Path) -> None:
    """Also what it imports late, and what only type checkers see."""
    own = place(module(path))
    assert own in FLOOR, "a new package needs a floor"
    upward = {name for name in imports(path) if place(name) != own and FLOOR[place(name)] >= FLOOR[own]}
    assert upward == set()


def test_no_module_is_in_a_circle() -> None:
    """Within a package too: a reader can begin with the modules that need no others, and go up."""
    needs = {module(path): set(imports(path)) - {module(path)} for path in FILES}
    while True:
        free = {name for name, needed in needs.items() if not needed & needs.keys()}
        if not free:
            break
        needs = {name: needed for name, needed in needs.items() if name not in free}
    assert needs == {}


@pytest.mark.parametrize("name", [f"{folder}/{name}" for folder, names in PURE.items() for name in names.split()])
def test_decisions_do_no_io(name: str) -> None:
    """Modules that decide or hold values read no clock and open nothing but the config's own files."""
    path = PACKAGE / f"{name.lstrip('/')}.py"
    named = {alias.name.split(".")[0] for node in nodes(path) if isinstance(node, ast.Import) for alias in node.names}
    named |= {(node.module or "").split(".")[0] for node in nodes(path) if isinstance(node, ast.ImportFrom)}
    assert named & OUTSIDE == set()
    assert "clock" not in imports(path)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_late_import_is_plain_and_says_why(path: Path) -> None:
    """What a tick must not pay for is imported in the function, as ``from … import …``, so that it is type-checked;
    only the table of commands goes by names."""
    lines = path.read_text().splitlines()
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    above = lines[max(0, inner.lineno - 3) : inner.lineno]
                    assert any("#" in line for line in above), f"{path}:{inner.lineno} needs its reason"
        if isinstance(node, ast.Attribute) and node.attr == "import_module":
            assert module(path) == "cli"


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda folder: folder.name)
def test_a_folder_can_be_taken_in_at_a_glance(folder: Path) -> None:
    """At most 20 files; its ``__init__`` says in a line what it holds and imports nothing."""
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 20
    if folder != PACKAGE:
        assert len((folder / "__init__.py").read_text().splitlines()) == 1
