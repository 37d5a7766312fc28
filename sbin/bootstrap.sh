#!/bin/sh
# Makes .venv at the top of the project and installs restart-guard into it.
#   sbin/bootstrap.sh demo    with the embedded Redis, when no redis-server is installed
#   sbin/bootstrap.sh test    with what the tests need, editable
# Prints nothing when there is nothing to do. demo.sh and test.sh call it.
set -eu
cd -- "$(dirname -- "$0")/.."
what=$1

say() { printf '%s\n' "$*" >&2; }

# A pyenv shim changes its mind with the working directory: ask for the interpreter behind it.
find_python() {
    for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11 /usr/bin/python3; do
        real=$("$name" -c 'import sys; sys.version_info >= (3, 11) and print(sys.executable)' 2>/dev/null) || continue
        [ -z "$real" ] || { printf '%s\n' "$real"; return 0; }
    done
    say "restart-guard needs Python 3.11 or newer, and none was found; set PYTHON=/path/to/python3."
    return 1
}

if ! [ -x .venv/bin/python ] || ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
            say "installing python3-venv"
            apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y python3-venv >&2
        else
            say "Python's venv module is missing. As root: apt-get install python3-venv"
            exit 1
        fi
    fi
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi

# Every package is one of requirements/*.txt, by its hash; what builds restart-guard itself is there too. sbin/lock.sh writes them.
case $what in
demo)
    lock=requirements/run.txt
    command -v redis-server >/dev/null 2>&1 || command -v valkey-server >/dev/null 2>&1 || lock=requirements/demo.txt
    source=.
    ;;
test)
    lock=requirements/test.txt
    source='--editable .'
    ;;
*) say "usage: $0 demo|test"; exit 2 ;;
esac
# What was installed is remembered by the content of these, so that a second run is quick.
stamp=".venv/installed-$what-$(cat pyproject.toml $lock | cksum | tr ' ' -)"
[ -e "$stamp" ] && exit 0
say "installing restart-guard ($what) into .venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
.venv/bin/python -m pip install -qq --compile --require-hashes -r $lock >&2
# shellcheck disable=SC2086 # an option and a folder
.venv/bin/python -m pip install -qq --compile --no-deps --no-build-isolation $source >&2
rm -f .venv/installed-"$what"-*
: >"$stamp"
