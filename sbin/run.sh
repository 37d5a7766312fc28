#!/bin/sh
# Runs restart-guard for the scripts beside it: of the .venv above this folder, else the one on PATH, else where README.md
# installs it (cron's PATH has neither); with the config.toml above this folder, if RESTART_GUARD_CONFIG names no other.
here=$(dirname -- "$(readlink -f -- "$0")")
above=$(dirname -- "$here")
if [ -z "${RESTART_GUARD_CONFIG:-}" ] && [ -e "$above/config.toml" ]; then
    RESTART_GUARD_CONFIG=$above/config.toml
    export RESTART_GUARD_CONFIG
fi
for venv in "$above/.venv" "$above/venv"; do
    # By the interpreter: the command beside it names the folder where the venv was made, also after a move.
    if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import restart_guard' 2>/dev/null; then
        exec "$venv/bin/python" -m restart_guard "$@"
    fi
done
for command in restart-guard "${HOME:-/root}/restart-guard/bin/restart-guard" "${HOME:-/root}/.local/bin/restart-guard"; do
    if command -v "$command" >/dev/null; then
        exec "$command" "$@"
    fi
done
cat >&2 <<END
restart-guard is neither in $above/.venv nor on PATH nor in ${HOME:-/root}/restart-guard. These two commands install it:
    python3 -m venv $above/.venv
    $above/.venv/bin/pip install $above
END
exit 127
