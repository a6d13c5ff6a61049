#!/bin/sh
# Installs a MariaDB server for the tests if there is none. The tests start it on their own folder and port.
set -eu
PATH=$PATH:/usr/sbin:/usr/local/sbin
command -v mariadbd >/dev/null && exit 0
if ! command -v apt-get >/dev/null; then
    echo "The tests need mariadbd: install MariaDB's server by this system's package manager." >&2
    exit 1
fi
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
$as_root apt-get update -q
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends mariadb-server
