#!/usr/bin/env bash
# Makes small Debian trees with systemd as their init, below target/ci/systemd; the tests boot them in containers of
# their own. One is as old as we support, one is newer. Quick when they are there already.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/target/ci/systemd
mirror=${NEXUS_DEBIAN_MIRROR:-http://deb.debian.org/debian}
packages=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,mount,passwd,procps

if ! command -v systemd-nspawn >/dev/null || ! command -v mmdebstrap >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq systemd-container mmdebstrap >/dev/null
fi
mkdir -p "$out"

tree() {
    local suite=$1 fresh
    [ -e "$out/$suite/etc/nexus-test-tree" ] && return
    rm -rf "$out/$suite".??????
    fresh=$(mktemp -d "$out/$suite.XXXXXX")
    chmod 755 "$fresh"
    mmdebstrap --quiet --variant=essential --include="$packages" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' "$suite" "$fresh" "$mirror"
    # Ada is the user whose own manager runs from boot on; Bob is in no group of ours.
    chroot "$fresh" useradd --create-home --uid 1000 --shell /bin/sh ada
    chroot "$fresh" useradd --create-home --uid 1001 --shell /bin/sh bob
    mkdir -p "$fresh/var/lib/systemd/linger"
    touch "$fresh/var/lib/systemd/linger/ada"
    # Nothing that a test waits for needs these.
    for unit in systemd-networkd-wait-online systemd-resolved systemd-timesyncd apt-daily.timer apt-daily-upgrade.timer \
        dpkg-db-backup.timer e2scrub_all.timer fstrim.timer; do
        case $unit in *.timer) ;; *) unit=$unit.service ;; esac
        ln -sf /dev/null "$fresh/etc/systemd/system/$unit"
    done
    : >"$fresh/etc/nexus-test-tree"
    rm -rf "${out:?}/$suite"
    mv "$fresh" "$out/$suite"
}

# Both are waited for, whatever becomes of the other: an unfinished one must not go on behind our back.
tree bookworm &
first=$!
ended=0
tree trixie || ended=$?
wait "$first" || ended=$?
exit "$ended"
