#!/bin/sh
# Stops the programs gently; they stay down: stop.sh [TARGET]...
here=$(dirname -- "$(readlink -f -- "$0")")
[ -r "$here/run.sh" ] || { echo "$0 is a copy without run.sh beside it. Link it instead: ln -sf /path/to/sbin/stop.sh $0" >&2; exit 127; }
exec sh "$here/run.sh" stop "$@"
