#!/bin/sh
# Makes the database on the first start, then becomes the server.
#
# The new database is made in a folder beside and renamed when it is whole, so that a start which was cut short begins
# again and never leaves half a database.
set -eu

: "${PGDATA:=/var/lib/postgresql/data/pgdata}"
: "${POSTGRES_DB:=shop}"
: "${POSTGRES_INIT:=/etc/postgresql/init}"
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
export PGDATA PATH

make_database() {
    fresh=$PGDATA.new
    rm -rf "$fresh"
    if ! mkdir -m 0700 "$fresh"; then
        echo "user $(id -u) may not write to $(dirname "$PGDATA"): give the pod securityContext.fsGroup $(id -g)" >&2
        exit 1
    fi
    (umask 077 && printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password)
    initdb --no-sync --pgdata="$fresh" --username=postgres --pwfile=/tmp/password --auth=scram-sha-256 \
        --encoding=UTF8 --locale=C.UTF-8 >/dev/null 2>/tmp/initdb.log ||
        { cat /tmp/initdb.log >&2; exit 1; }
    rm -f /tmp/password
    cat >>"$fresh/postgresql.conf" <<EOF
listen_addresses = '*'
unix_socket_directories = '/tmp'
jit = off
shared_buffers = 16MB
max_connections = 50
EOF
    echo "host all all all scram-sha-256" >>"$fresh/pg_hba.conf"

    PGPASSWORD=$POSTGRES_PASSWORD
    PGUSER=postgres
    PGHOST=/tmp
    export PGPASSWORD PGUSER PGHOST
    pg_ctl --pgdata="$fresh" --options="-c listen_addresses='' -c fsync=off" --wait --silent start
    createdb "$POSTGRES_DB"
    for script in "$POSTGRES_INIT"/*.sql; do
        [ -e "$script" ] || continue
        echo "running $script"
        psql --dbname="$POSTGRES_DB" --set=ON_ERROR_STOP=1 --quiet --file="$script"
    done
    pg_ctl --pgdata="$fresh" --mode=fast --wait --silent stop
    initdb --sync-only --pgdata="$fresh" >/dev/null
    mv "$fresh" "$PGDATA"
    sync "${PGDATA%/*}"
    unset PGPASSWORD PGUSER PGHOST
}

if [ ! -e "$PGDATA" ]; then
    : "${POSTGRES_PASSWORD:?a new database needs a password for its superuser}"
    make_database
fi
# A pod's fsGroup opens the folder to the group on every mount, and the server refuses such a folder.
chmod 0700 "$PGDATA"
unset POSTGRES_PASSWORD
exec postgres "$@"
