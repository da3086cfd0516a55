#!/usr/bin/env bash
# Installs what the container tests run against: Docker, Podman, a registry, and a shell for their image.
set -euo pipefail
# The ordinary user of the tests, who may lend 65536 numbers to users of its containers.
id -u 1001 >/dev/null 2>&1 || useradd --uid 1001 --no-create-home --shell /usr/sbin/nologin nexus-test
user=$(id -un 1001)
for file in /etc/subuid /etc/subgid; do
    grep -q "^$user:" "$file" 2>/dev/null || echo "$user:1000000:65536" >>"$file"
done
packages=(docker.io podman runc busybox-static docker-registry uidmap slirp4netns fuse-overlayfs)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
# The services that the packages start are not those that the tests use.
for service in docker docker-registry podman; do
    if [ -d /run/systemd/system ]; then systemctl disable --now "$service" || true; fi
done
