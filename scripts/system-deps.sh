#!/bin/sh
# System libraries for ManiSkill on a CPU: a Vulkan loader and Mesa's lavapipe >= 24.3 (older ones lack descriptor indexing).
# Idempotent and quiet. Where it cannot install (not root, not Debian or Ubuntu) it says what to install and exits 0:
# everything but ManiSkill works without.
set -eu

NEEDED=24.3
PACKAGES="libvulkan1 mesa-vulkan-drivers libegl1 libgl1 libglib2.0-0"

version() { dpkg-query -W -f '${Version}' "$1" 2>/dev/null || true; }

lavapipe_ok() { have=$(version mesa-vulkan-drivers); [ -n "$have" ] && dpkg --compare-versions "$have" ge "$NEEDED"; }

missing() {
    for p in $PACKAGES; do
        # Ubuntu 24.04 renamed libglib2.0-0 to libglib2.0-0t64.
        [ -n "$(version "$p")$(version "${p}t64")" ] || printf '%s ' "$p"
    done
}

say_what_to_install() {
    echo "system-deps: $1. ManiSkill needs a Vulkan driver: a GPU's own, or Mesa lavapipe >= $NEEDED."
    echo "system-deps: Debian 12, as root:   scripts/system-deps.sh   (mesa-vulkan-drivers from bookworm-backports)"
    echo "system-deps: Debian 13, Ubuntu >= 24.04:   sudo apt-get install $PACKAGES"
    echo "system-deps: Fedora:   sudo dnf install vulkan-loader mesa-vulkan-drivers"
    echo "system-deps: everything but ManiSkill works without."
    exit 0
}

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || say_what_to_install "not Debian or Ubuntu"
if lavapipe_ok && [ -z "$(missing)" ]; then
    exit 0
fi
[ "$(id -u)" = 0 ] || say_what_to_install "not root"

apt() {
    log=$(mktemp)
    if ! DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

. /etc/os-release
from=""
if [ "${VERSION_CODENAME:-}" = bookworm ]; then
    from="-t bookworm-backports"
    if ! grep -rqs bookworm-backports /etc/apt/sources.list /etc/apt/sources.list.d; then
        echo "deb http://deb.debian.org/debian bookworm-backports main" >/etc/apt/sources.list.d/bookworm-backports.list
    fi
fi
echo "system-deps: installing $PACKAGES"
# An unrelated repository that is down must not stop us: what matters is whether the install below works.
apt update || true
apt install -y --no-install-recommends $(missing) || say_what_to_install "apt-get failed"
# shellcheck disable=SC2086  (two words on purpose)
lavapipe_ok || apt install -y --no-install-recommends $from mesa-vulkan-drivers || say_what_to_install "apt-get failed"
lavapipe_ok || say_what_to_install "this release offers only mesa $(version mesa-vulkan-drivers)"
