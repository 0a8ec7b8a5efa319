#!/bin/sh
# Installs skep from this folder or a given binary: copies the one file, its systemd unit
# and shell completion. Run again to upgrade; containers go on while the daemon restarts.
#
#   ./install.sh [--binary PATH] [--docker-socket] [--no-start]
#   ./install.sh --uninstall
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
prefix=${PREFIX:-/usr/local}
binary=
docker_socket=no
start=yes

say() { printf '%s\n' "$*"; }
die() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

uninstall() {
    if command -v systemctl >/dev/null 2>&1; then
        systemctl disable --now skep.service 2>/dev/null || true
    fi
    rm -f "$prefix/bin/skep" /etc/systemd/system/skep.service /etc/tmpfiles.d/skep-docker-socket.conf
    rm -f /usr/share/bash-completion/completions/skep
    say "skep is removed. Containers still run; images, volumes and the swarm's state stay in /var/lib/skep."
}

while [ $# -gt 0 ]; do
    case "$1" in
        --binary) [ $# -ge 2 ] || die "--binary needs a path"; binary=$2; shift ;;
        --docker-socket) docker_socket=yes ;;
        --no-start) start=no ;;
        --uninstall) uninstall; exit 0 ;;
        *) die "unknown option $1" ;;
    esac
    shift
done

[ "$(id -u)" = 0 ] || die "must run as root"
if [ -z "$binary" ]; then
    for candidate in "$here/skep" "$here/../target/release/skep"; do
        if [ -x "$candidate" ]; then binary=$candidate; break; fi
    done
fi
[ -n "$binary" ] && [ -x "$binary" ] || die "no skep binary found: name one with --binary"

# Written beside and renamed, so that a running skep is never overwritten in place.
mkdir -p "$prefix/bin"
cp "$binary" "$prefix/bin/.skep.new"
chmod 0755 "$prefix/bin/.skep.new"
mv -f "$prefix/bin/.skep.new" "$prefix/bin/skep"
say "installed $prefix/bin/skep"

if "$prefix/bin/skep" completion bash >/dev/null 2>&1; then
    mkdir -p /usr/share/bash-completion/completions
    "$prefix/bin/skep" completion bash > /usr/share/bash-completion/completions/skep
    say "installed bash completion"
fi

if ! command -v systemctl >/dev/null 2>&1 || [ ! -d /run/systemd/system ]; then
    say "systemd does not run here: start the daemon with '$prefix/bin/skep daemon'"
    exit 0
fi

sed "s|/usr/local/bin/skep|$prefix/bin/skep|" "$here/skep.service" > /etc/systemd/system/skep.service
if [ "$docker_socket" = yes ]; then
    if systemctl is-active --quiet docker.service 2>/dev/null; then
        die "docker runs on this machine: its socket is not replaced"
    fi
    mkdir -p /etc/tmpfiles.d
    cp "$here/docker-socket.conf" /etc/tmpfiles.d/skep-docker-socket.conf
    systemd-tmpfiles --create /etc/tmpfiles.d/skep-docker-socket.conf
fi
systemctl daemon-reload
systemctl enable skep.service
if [ "$start" = yes ]; then
    systemctl restart skep.service
    say "skep runs; its socket is /run/skep/skep.sock"
fi
