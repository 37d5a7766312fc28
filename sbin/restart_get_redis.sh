#!/bin/sh
# The weekly job: reads the Redis data, heals it, records the outcome, alerts; cron runs this on Mondays: restart_get_redis.sh [CHECK]...
here=$(dirname -- "$(readlink -f -- "$0")")
[ -r "$here/run.sh" ] || { echo "$0 is a copy without run.sh beside it. Link it instead: ln -sf /path/to/sbin/restart_get_redis.sh $0" >&2; exit 127; }
exec sh "$here/run.sh" check-redis "$@"
