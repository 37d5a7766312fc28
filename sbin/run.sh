#!/bin/sh
# Runs restart-guard for the scripts beside it: the one in ../.venv, else the one on PATH; with ../config.toml if that is
# there and RESTART_GUARD_CONFIG names no other.
cd -- "$(dirname -- "$(readlink -f -- "$0")")" || exit 1
command=../.venv/bin/restart-guard
[ -x "$command" ] || command=restart-guard
command -v "$command" >/dev/null || { echo "restart-guard is neither in ../.venv nor on PATH: see Install in README.md" >&2; exit 127; }
if [ -z "${RESTART_GUARD_CONFIG:-}" ] && [ -e ../config.toml ]; then
    RESTART_GUARD_CONFIG=$(dirname -- "$PWD")/config.toml
    export RESTART_GUARD_CONFIG
fi
exec "$command" "$@"
