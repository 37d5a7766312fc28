"""The commented config that ``init`` writes. Pure."""

import msgspec

_HEAD = """\
# restart-guard: relative paths start at this file. Every option: config.example.toml of the project.
state_dir = "state"
"""

_TARGET = """
[targets.{key}]
program = {program}
command = "{{python}} {{program}}"           # {{python}} is restart-guard's own; yours may be "/app/.venv/bin/python"
log_file = "logs/{name}.log"
# stop_timeout = "30s"                    # how long it may drain
# environment_file = "{name}.env"

# [targets.{key}.health]                 # restarted when it runs but does not answer
# http = "http://127.0.0.1:8000/"
"""

_REST = """
# [redis]
# url = "redis://localhost:6379/0"
# password = {{ file = "secrets/redis" }}   # a secret is text, {{ env = "X" }} or {{ file = "path" }}

# [mysql]                                 # where the table task_monitor is
# host = "localhost"
# user = "root"
# password = {{ file = "secrets/mysql" }}
# database = "irmdata"

# [wecom]                                 # who is told
# webhook = {{ file = "secrets/wecom" }}    # the group robot's URL, or only its key
# mentioned_mobiles = ["13800001111"]

# [checks.metadata]                       # the weekly job
# keys = ["your_data_key"]
# type = "string"
# format = "json"
# recover = "{recover}"

[timer]
check_redis = "0 2 * * 1"                 # Monday 02:00
restart = "* * * * *"
log_dir = "logs"
"""


def config(name: str, program: str | None) -> str:
    """The text of a config with one target, or with none."""
    if program is None:
        commented = "".join(f"# {line}\n" if line else "\n" for line in _filled("web", "server/run.py").splitlines())
        return _HEAD + commented.replace("# # ", "# ") + _REST.format(recover="none")
    return _HEAD + _filled(name, program) + _REST.format(recover=f"restart:{name}")


def _filled(name: str, program: str) -> str:
    # TOML needs quotation marks around a key with other letters.
    key = name if name.isascii() else msgspec.json.encode(name).decode()
    return _TARGET.format(name=name, key=key, program=msgspec.json.encode(program).decode())
