#!/bin/sh
# Relaunches what should run and does not; cron runs this each minute: restart.sh [TARGET]...
here=$(dirname -- "$(readlink -f -- "$0")")
[ -r "$here/run.sh" ] || { echo "$0 is a copy without run.sh beside it. Link it instead: ln -sf /path/to/sbin/restart.sh $0" >&2; exit 127; }
exec sh "$here/run.sh" restart "$@"
