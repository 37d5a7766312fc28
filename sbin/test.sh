#!/bin/sh
# Installs what the tests need and runs them all: ruff, codespell, mypy, pytest. Arguments go to pytest:
#   sbin/test.sh -m unit          the inner loop: no servers, no processes, seconds
#   sbin/test.sh -m "not slow"    without the long ones
#   sbin/test.sh --cov            with a coverage report
# As root on Debian or Ubuntu the missing servers are installed; elsewhere the one line that does it is printed and the
# tests that need them are skipped with that reason. With CI=true a test that cannot run is a failure.
set -eu
cd -- "$(dirname -- "$0")/.."

missing=
need() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"; }
found() { [ -e "$1" ]; }
need redis-server redis-server
need redis-sentinel redis-sentinel
need mariadbd mariadb-server
need mariadb-install-db mariadb-server
need cron cron
need faketime faketime
need gcc gcc
need ip iproute2
need nft nftables
need systemd-analyze systemd
need openssl openssl
need promtool prometheus
need prometheus-node-exporter prometheus-node-exporter
need chromium chromium
need sqlite3 sqlite3
need nginx nginx-light
need node nodejs
need java default-jre-headless
need perl perl
need php php-cli
found /usr/share/i18n/locales/zh_CN || missing="$missing locales"
need localedef libc-bin
found /usr/sbin/php-fpm* || missing="$missing php-fpm"
if [ -n "$missing" ]; then
    missing=$(printf '%s\n' $missing | sort -u | tr '\n' ' ')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing $missing"
        # The packages' services must not start: the tests run servers of their own.
        policy=/usr/sbin/policy-rc.d
        if [ ! -e $policy ]; then
            printf '#!/bin/sh\nexit 101\n' >$policy
            chmod 755 $policy
            trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        fi
        apt-get update -qq
        # shellcheck disable=SC2086 # a list of words
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
    else
        echo "Some tests need packages that are not installed. As root: apt-get install $missing"
    fi
fi

sh sbin/test-servers.sh
sh sbin/bootstrap.sh test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/codespell
.venv/bin/mypy
.venv/bin/mypy --platform darwin --cache-dir .mypy_cache/darwin  # a cache of its own: one platform throws away the other's
# Most tests wait for something, the unit tests (the inner loop) for nothing.
workers=5
case " $* " in *" unit "*) workers=2 ;; esac
.venv/bin/python -m pytest -n "$workers" --dist worksteal "$@"
