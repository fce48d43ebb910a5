#!/usr/bin/env bash
# A real name server (Knot DNS) for the zone `test.`, which the tests write and change.
#
#   dns.sh install          installs it where it is missing (a Debian package, as root)
#   dns.sh serve DIR PORT   serves DIR/test.zone at 127.0.0.1:PORT, in the foreground, until killed
#   dns.sh reload DIR       takes a changed DIR/test.zone up, also after `fail`
#   dns.sh fail DIR         answers everything with SERVFAIL, as when the zone has expired
set -euo pipefail
. "$(dirname "$0")/lib.sh"

control() { knotc --blocking --force --socket "$dir/knot.sock" "$@"; }

command=${1:-}
dir=${2:-}
case $command in
install) need knotd knot ;;
serve)
    # The databases would reserve 20 GB of addresses by default.
    cat >"$dir/knot.conf" <<CONF
server:
    listen: 127.0.0.1@$3
    rundir: $dir
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
control:
    listen: $dir/knot.sock
log:
  - target: stderr
    any: info
database:
    storage: $dir/db
    journal-db-max-size: 64M
    timer-db-max-size: 16M
    kasp-db-max-size: 16M
zone:
  - domain: test.
    file: $dir/test.zone
    zonefile-sync: -1
    journal-content: none
CONF
    exec knotd --config "$dir/knot.conf"
    ;;
reload) control reload ;;
fail) control zone-purge +expire test. ;;
*)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
