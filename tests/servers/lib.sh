# Helpers for the scripts in this directory, which source it.

# What Debian keeps from the PATH of ordinary users.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# need COMMAND PACKAGE   installs a Debian package when its command is missing. The package's own
# service is not started: policy-rc.d says no meanwhile.
need() {
    command -v "$1" >/dev/null && return 0
    echo "installing $2"
    local policy=/usr/sbin/policy-rc.d mine=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && mine=1
    fi
    local install=(apt-get install -y -qq --no-install-recommends "$2") status=0
    "${install[@]}" >/dev/null 2>&1 || { apt-get update -qq && "${install[@]}" >/dev/null; } || status=$?
    [ -z "$mine" ] || rm -f "$policy"
    return "$status"
}
