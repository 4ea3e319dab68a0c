#!/bin/sh
# System libraries for simulators on a CPU. ManiSkill: a Vulkan loader and Mesa's lavapipe >= 24.3 (older ones lack descriptor
# indexing). Images of LIBERO: OSMesa.
# Idempotent and quiet. Where it cannot install (not root, not Debian or Ubuntu) it says what to install and exits 0:
# everything but ManiSkill and images of LIBERO works without.
set -eu

NEEDED=24.3
PACKAGES="libvulkan1 mesa-vulkan-drivers libegl1 libgl1 libglib2.0-0"

version() { dpkg-query -W -f '${Version}' "$1" 2>/dev/null || true; }

lavapipe_ok() { have=$(version mesa-vulkan-drivers); [ -n "$have" ] && dpkg --compare-versions "$have" ge "$NEEDED"; }

opengl_ok() { [ -n "$(version libosmesa6)" ] || [ -e /dev/nvidiactl ] || [ "$(version libegl-mesa0 | cut -d. -f1)" -ge 25 ] 2>/dev/null; }

missing() {
    for p in $PACKAGES; do
        # Ubuntu 24.04 renamed libglib2.0-0 to libglib2.0-0t64.
        [ -n "$(version "$p")$(version "${p}t64")" ] || printf '%s ' "$p"
    done
}

say_what_to_install() {
    echo "system-deps: $1. ManiSkill needs a Vulkan driver: a GPU's own, or Mesa lavapipe >= $NEEDED; LIBERO OSMesa or EGL."
    echo "system-deps: Debian 12, as root:   scripts/system-deps.sh   (mesa-vulkan-drivers from bookworm-backports)"
    echo "system-deps: Debian 13, Ubuntu >= 24.04:   sudo apt-get install $PACKAGES"
    echo "system-deps: Fedora:   sudo dnf install vulkan-loader mesa-vulkan-drivers mesa-libOSMesa"
    echo "system-deps: everything but ManiSkill and images of LIBERO works without."
    exit 0
}

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || say_what_to_install "not Debian or Ubuntu"
if lavapipe_ok && opengl_ok && [ -z "$(missing)" ]; then
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
echo "system-deps: installing $PACKAGES libosmesa6"
# An unrelated repository that is down must not stop us: what matters is whether the install below works.
apt update || true
[ -z "$(missing)" ] || apt install -y --no-install-recommends $(missing) || say_what_to_install "apt-get failed"
# Mesa 25.1 and later have no OSMesa any more, but an EGL that renders on a CPU.
opengl_ok || apt install -y --no-install-recommends libosmesa6 || apt install -y --no-install-recommends libegl-mesa0 ||
    echo "system-deps: no OSMesa: images of LIBERO need it, or EGL with a driver"
# shellcheck disable=SC2086  (two words on purpose)
lavapipe_ok || apt install -y --no-install-recommends $from mesa-vulkan-drivers || say_what_to_install "apt-get failed"
lavapipe_ok || say_what_to_install "this release offers only mesa $(version mesa-vulkan-drivers)"
