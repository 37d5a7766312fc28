#!/bin/sh
# Writes requirements/*.txt anew: each package that sbin/ installs, with its version and the hashes of all its files, for
# all systems and Pythons that pyproject.toml allows. Run it after a change of the dependencies there, and before a release.
#   sbin/lock.sh              keeps the versions that are there, where pyproject.toml still allows them
#   sbin/lock.sh --upgrade    takes the newest
set -eu
cd -- "$(dirname -- "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq --disable-pip-version-check uv
compile() {
    name=$1
    shift
    "$work/venv/bin/uv" pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate \
        --custom-compile-command sbin/lock.sh --output-file "requirements/$name.txt" "$@"
}
# Also what builds the wheel: pip has no hashes for what it fetches into a build environment of its own.
"$work/venv/bin/python" - >"$work/build.in" <<'PY'
import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"], sep="\n")
PY
compile test "$@" --extra demo --group dev pyproject.toml "$work/build.in"
compile demo "$@" --extra demo -c requirements/test.txt pyproject.toml "$work/build.in"
compile run "$@" -c requirements/test.txt pyproject.toml "$work/build.in"
