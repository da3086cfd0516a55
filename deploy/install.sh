#!/bin/sh
# Checks and installs what lies beside this script: to /usr/local as root, to ~/.local otherwise, or where --prefix says.
# It starts nothing and asks nothing. To remove it again: --uninstall.
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
            exit 0
            ;;
        *) echo "install.sh: what is $1? See --help" >&2; exit 2 ;;
    esac
done
if [ -z "$prefix" ]; then
    if [ "$(id -u)" = 0 ]; then prefix=/usr/local; else prefix=$HOME/.local; fi
fi

files() { sed 's/^[0-9a-f]*  //' SHA256SUMS; }

if [ "$uninstall" = yes ]; then
    files | while IFS= read -r file; do rm -f "$prefix/$file"; done
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

# Each file stands beside the old one until it is whole: a running daemon keeps the program it has.
files | while IFS= read -r file; do
    mkdir -p "$(dirname "$prefix/$file")"
    case $file in bin/*) mode=755 ;; *) mode=644 ;; esac
    cp "$file" "$prefix/$file.new"
    chmod "$mode" "$prefix/$file.new"
    mv "$prefix/$file.new" "$prefix/$file"
done

echo "installed to $prefix"
case :$PATH: in
    *:"$prefix/bin":*) nexus=nexus ;;
    *)
        nexus=$prefix/bin/nexus
        echo "$prefix/bin is not in your PATH yet"
        ;;
esac
echo "next: $nexus up                  start everything now"
echo "  or: $nexus services install    and have systemd or launchd keep it running"
