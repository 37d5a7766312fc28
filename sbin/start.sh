#!/bin/sh
# Starts the programs and guards them from now on: start.sh [TARGET]...
here=$(dirname -- "$(readlink -f -- "$0")")
[ -r "$here/run.sh" ] || { echo "$0 is a copy without run.sh beside it. Link it instead: ln -sf /path/to/sbin/start.sh $0" >&2; exit 127; }
exec sh "$here/run.sh" start "$@"
