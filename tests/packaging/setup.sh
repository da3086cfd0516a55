#!/usr/bin/env bash
# What reads our deployment files, below target/ci: compose files, for where Docker has no compose of its own, and
# Prometheus' settings. Quick when they are there.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/target/ci

if ! [ -x "$out/compose/bin/podman-compose" ]; then
    command -v strip >/dev/null || { apt-get update -qq && apt-get install -y -qq binutils >/dev/null; }
    python3 -m venv "$out/compose"
    "$out/compose/bin/python" -m pip install --quiet --disable-pip-version-check podman-compose==1.6.0
fi

if ! command -v promtool >/dev/null && ! [ -x "$out/prometheus/promtool" ]; then
    fresh=$(mktemp -d)
    # Only the one program: the server would be started by its package.
    (cd "$fresh" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; })
    dpkg-deb --fsys-tarfile "$fresh"/prometheus_*.deb | tar -x -C "$fresh" ./usr/bin/promtool
    mkdir -p "$out/prometheus"
    mv "$fresh/usr/bin/promtool" "$out/prometheus/"
    rm -rf "$fresh"
fi
