#!/bin/sh
# Puts servers that are newer than this Debian's beside it, for the tests: MySQL 9, Redis 8, twemproxy. They are installed
# nowhere: apt fetches and verifies the packages of Debian sid with lists and a cache of its own, they are unpacked into
# ~/.cache/restart-guard/servers and run with their own C library from bin/ there. No root; 10 s, 300 MB; done once.
set -eu
place=${RESTART_GUARD_TEST_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/restart-guard/servers}
[ -e "$place/complete" ] && exit 0
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null && [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || {
    echo "MySQL 9, Redis 8 and twemproxy are for the tests on Debian only: the tests that need them are skipped." >&2
    exit 0
}
echo "fetching MySQL 9, Redis 8 and twemproxy into $place" >&2
mirror=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) .*/\2/p' \
    /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -1)
new=$place.new
rm -rf "$new" "$place"
mkdir -p "$new/apt/lists/partial" "$new/apt/archives/partial" "$new/bin"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$new/apt/sources.list"
fetch() {
    apt-get -oDir::Etc::sourcelist="$new/apt/sources.list" -oDir::Etc::sourceparts=/dev/null \
        -oDir::Etc::preferencesparts=/dev/null -oDir::State::Lists="$new/apt/lists" -oDir::Cache="$new/apt" \
        -oDir::State::status=/dev/null -oDebug::NoLocking=1 -oAcquire::Languages=none -oAcquire::Retries=3 \
        -oAPT::Sandbox::User="$(id -un)" -qq "$@"
}
fetch update
fetch --download-only -y --no-install-recommends install mysql-server-core redis-server nutcracker >/dev/null
for package in "$new"/apt/archives/*.deb; do
    dpkg-deb -x "$package" "$new/system"
done
rm -rf "$new/apt"
mv "$new" "$place"
system=$place/system
loader=$(find "$system" -name 'ld-linux-*.so.*' -type f | head -1)
libraries=$(dirname "$(find "$system/usr/lib" -name 'libstdc++.so.6' | head -1)")
program() { # NAME WORDS…: bin/NAME runs the program with these words first
    name=$1
    file=$(find "$system/usr/bin" "$system/usr/sbin" -name "$name" | head -1)
    shift
    printf '#!/bin/bash\nexec -a %s "%s" --library-path "%s" "%s" %s "$@"\n' \
        "$name" "$loader" "$libraries" "$file" "$*" >"$place/bin/$name"
    chmod +x "$place/bin/$name"
}
program redis-server
program nutcracker
program mysqld --no-defaults "--basedir=$system/usr" "--lc-messages-dir=$system/usr/share/mysql" \
    "--character-sets-dir=$system/usr/share/mysql/charsets" "--plugin-dir=$system/usr/lib/mysql/plugin" \
    --secure-file-priv=NULL
# An empty data folder takes 6 s to make and no time to copy.
user=$(id -un)
"$place/bin/mysqld" --initialize-insecure --innodb-redo-log-capacity=8M "--datadir=$place/data" "--user=$user" >"$place/initialize.log" 2>&1 || {
    cat "$place/initialize.log" >&2
    exit 1
}
: >"$place/complete"
