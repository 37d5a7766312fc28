#!/bin/sh
# Shows the weekly job on this machine: makes .venv, installs restart-guard with an embedded Redis, runs the demo.
set -eu
cd -- "$(dirname -- "$0")/.."
sh sbin/bootstrap.sh demo
exec .venv/bin/restart-guard demo
