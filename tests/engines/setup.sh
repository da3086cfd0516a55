#!/usr/bin/env bash
# Installs what the container tests run against: Docker, Podman, a registry, and a shell for their image.
set -euo pipefail
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
