#!/usr/bin/env bash
# What tests/tests/wake needs beside a C compiler: a clock that can be set, a logind that can be told, and `ip`.
# As root, since packages are installed; the tests of a taken network need root too.
set -euo pipefail
missing=()
ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || missing+=(libfaketime)
/usr/bin/python3 -c 'import dbusmock' 2>/dev/null || missing+=(python3-dbusmock)
command -v dbus-daemon >/dev/null || missing+=(dbus)
command -v ip >/dev/null || missing+=(iproute2)
if ((${#missing[@]})); then
    apt-get update -qq
    apt-get install -y -qq "${missing[@]}"
fi
