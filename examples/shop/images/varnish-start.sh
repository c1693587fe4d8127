#!/bin/sh
# Waits until the configuration can be compiled, which needs the names of all backends, then becomes the cache.
set -eu

: "${VARNISH_VCL:=/etc/varnish/shop.vcl}"
: "${VARNISH_MEMORY:=32m}"
attempts=60

# tcc stands in for the C compiler with which Varnish turns its configuration into code: 0.3 MB for 150.
set -- -n /tmp/varnish -f "$VARNISH_VCL" -p cc_command='exec tcc -nostdlib -shared -o %o %s' "$@"
while ! varnishd -C "$@" >/dev/null 2>/tmp/compile.log; do
    attempts=$((attempts - 1))
    if [ "$attempts" -eq 0 ]; then
        grep -v '^ *$' /tmp/compile.log | head -n 20 >&2
        exit 1
    fi
    sleep 1
done
exec varnishd -F -j none -a ":${PORT:-8080}" -T none -s "malloc,$VARNISH_MEMORY" \
    -p vsl_space=1M -p thread_pools=1 -p thread_pool_min=10 -p thread_pool_max=200 "$@"
