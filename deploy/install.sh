#!/bin/sh
# Checks and installs what lies beside this script: to /usr/local as root, to ~/.local otherwise, or where --prefix says.
# Versions lie side by side in PREFIX/lib/nexus/versions; PREFIX/bin has links to the current one.
# It starts nothing and asks nothing. To remove all versions again: --uninstall.
set -eu

cd "$(dirname "$0")"
prefix=
uninstall=no
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) prefix=${2:?--prefix needs a folder}; shift 2 ;;
        --prefix=*) prefix=${1#*=}; shift ;;
        --uninstall) uninstall=yes; shift ;;
        -h | --help)
            echo "usage: ./install.sh [--prefix DIR] [--uninstall]"
            echo "installs Nexus to DIR (as root /usr/local, else ~/.local)"
            echo "where Nexus runs already, this tries the new version first and goes back if it does not work:"
            echo "  nexus upgrade THIS_FOLDER"
            exit 0
            ;;
        *) echo "install.sh: what is $1? See --help" >&2; exit 2 ;;
    esac
done
if [ -z "$prefix" ]; then
    if [ "$(id -u)" = 0 ]; then prefix=/usr/local; else prefix=$HOME/.local; fi
fi
home=$prefix/lib/nexus

files() { sed 's/^[0-9a-f]*  //' "$1/SHA256SUMS"; }
linked() { files "$1" | grep -E '^(bin|share)/'; }
# The way from where a file stands in the prefix to the same file of the current version.
link_to() { echo "$(echo "$1" | sed 's|[^/]*/|../|g; s|[^/]*$||')lib/nexus/current/$1"; }

if [ "$uninstall" = yes ]; then
    for version in . "$home"/versions/*; do
        [ -f "$version/SHA256SUMS" ] || continue
        linked "$version" | while IFS= read -r file; do
            if [ "$(readlink "$prefix/$file" || true)" = "$(link_to "$file")" ]; then rm -f "$prefix/$file"; fi
        done
    done
    rm -rf "$home"
    rmdir "$prefix/share/doc/nexus" 2>/dev/null || true
    echo "removed from $prefix; what the daemons keep is left in NEXUS_ROOT"
    exit 0
fi

if command -v sha256sum >/dev/null; then
    check="sha256sum --check --quiet SHA256SUMS"
elif command -v shasum >/dev/null; then
    check="shasum --algorithm 256 --check SHA256SUMS"
else
    echo "install.sh: neither sha256sum nor shasum is here, so the files cannot be checked" >&2
    exit 1
fi
$check >/dev/null || { echo "install.sh: a file is not what it was when it was packed; nothing was installed" >&2; exit 1; }
version=$(sed -n 's/.*"version": *"\([0-9][0-9A-Za-z.+~-]*\)".*/\1/p' release.json)
[ -n "$version" ] || { echo "install.sh: release.json names no version; nothing was installed" >&2; exit 1; }

# Whole before it has its name; a version that is there already is replaced, as long as nobody upgrades.
mkdir -p "$home/versions" "$prefix/bin"
fresh=$home/versions/.new-$version
rm -rf "$fresh"
{ files .; echo SHA256SUMS; } | while IFS= read -r file; do
    mkdir -p "$(dirname "$fresh/$file")"
    case $file in bin/*) mode=755 ;; *) mode=644 ;; esac
    cp "$file" "$fresh/$file"
    chmod "$mode" "$fresh/$file"
done
aside=$home/versions/.new-old
rm -rf "$aside"
if [ -d "$home/versions/$version" ]; then mv "$home/versions/$version" "$aside"; fi
mv "$fresh" "$home/versions/$version"
rm -rf "$aside"

before=$(readlink "$home/current" || true)
rm -f "$home/.new-current"
ln -s "versions/$version" "$home/.new-current"
# One rename; the two ways to say that the link itself is meant.
mv -fT "$home/.new-current" "$home/current" 2>/dev/null || mv -fh "$home/.new-current" "$home/current"
if [ -n "$before" ] && [ "$before" != "versions/$version" ]; then
    ln -sfn "$before" "$home/previous"
fi

# Each link stands beside what was there until it takes its place: a running daemon keeps the program it has.
linked . | while IFS= read -r file; do
    mkdir -p "$(dirname "$prefix/$file")"
    ln -sf "$(link_to "$file")" "$prefix/$file.new"
    mv -f "$prefix/$file.new" "$prefix/$file"
done

echo "installed $version to $prefix"
case :$PATH: in
    *:"$prefix/bin":*) nexus=nexus ;;
    *)
        nexus=$prefix/bin/nexus
        echo "$prefix/bin is not in your PATH yet"
        ;;
esac
if [ -n "$before" ]; then
    echo "what runs goes on with the programs it has; next: $nexus services restart"
    exit 0
fi
echo "next: $nexus up                  start everything now"
echo "  or: $nexus services install    and have systemd or launchd keep it running"
