#!/usr/bin/env bash
# A reader of compose files, below target/ci, for where Docker has no compose of its own. Quick when it is there.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/target/ci/compose
[ -x "$out/bin/podman-compose" ] && exit
command -v strip >/dev/null || { apt-get update -qq && apt-get install -y -qq binutils >/dev/null; }
python3 -m venv "$out"
"$out/bin/python" -m pip install --quiet --disable-pip-version-check podman-compose==1.6.0
