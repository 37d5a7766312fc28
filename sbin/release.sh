#!/bin/sh
# Builds the wheel and the sdist into dist/ and checks both: each is installed in a new environment and run from there.
# No package of requirements/ may have a known hole. Uploads nothing.
set -eu
cd -- "$(dirname -- "$0")/.."
sh sbin/bootstrap.sh test
version=$(.venv/bin/python -c 'import restart_guard; print(restart_guard.__version__)')
grep -qE "^## \[$version\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md || {
    echo "CHANGELOG.md has no dated section [$version]." >&2
    exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/python -m venv "$work/audit"
"$work/audit/bin/python" -m pip install -qq --disable-pip-version-check pip-audit
# --strict: a package that the advisory service does not know is a failure, not a pass.
"$work/audit/bin/pip-audit" --strict --disable-pip --require-hashes -r requirements/test.txt
rm -rf dist
.venv/bin/python -m build --quiet --no-isolation
.venv/bin/python - dist/*.whl <<'PY'
import sys
import zipfile
for name in sys.argv[1:]:
    for entry in zipfile.ZipFile(name).infolist():
        if entry.external_attr >> 16 & 0o6022:
            sys.exit(f"{name}: others may write {entry.filename}, or it is set-user-ID.")
PY
for file in dist/*.whl dist/*.tar.gz; do
    echo "checking $file"
    rm -rf "$work/venv"
    .venv/bin/python -m venv "$work/venv"
    "$work/venv/bin/python" -m pip install -qq --disable-pip-version-check "$file"
    # From another folder, so that the checkout's own modules are not found.
    (cd "$work" && "$work/venv/bin/restart-guard" --version | grep -Fx "restart-guard $version" &&
        "$work/venv/bin/restart-guard" init --program server/run.py -h >/dev/null &&
        "$work/venv/bin/python" -c 'from importlib.resources import files
for package, name in (("restart_guard", "py.typed"), ("restart_guard.mysql", "schema.sql")):
    assert (files(package) / name).is_file(), name')
done
for name in crontab.example config.example.toml sbin/run.sh docs/design.md CONTRIBUTING.md; do
    tar -tzf dist/*.tar.gz | grep -q "/$name\$" || {
        echo "The sdist lacks $name." >&2
        exit 1
    }
done
ls dist
