#!/usr/bin/env bash
# Make .venv and install the project into it: `core` is what the demo needs, `dev` everything. Safe to repeat.
# `torch`: torch alone, into the folder RPD_VENV; wheel_smoke.sh puts the wheel there.
set -euo pipefail
cd "$(dirname "$0")/.."
what=$1
VENV=${RPD_VENV:-.venv}
PIP=("$VENV/bin/python" -m pip --disable-pip-version-check -qq)

die() { printf 'venv: %s\n' "$@" >&2; exit 1; }

# Run apt-get quietly where we may; elsewhere say what to install.
apt_or_say() {
    local packages=$1 reason=$2
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "venv: $reason; installing $packages"
        { apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq install -y $packages; } >/dev/null && return
    fi
    die "$reason" "Debian, Ubuntu:  sudo apt-get install $packages" "elsewhere: install Python >= 3.10, or make ... PYTHON=/path/to/python3"
}

find_python() {
    local python
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$python" && return
        fi
    done
    return 1
}

make_venv() {
    local python
    if ! python=$(find_python); then
        [ -z "${PYTHON:-}" ] || die "PYTHON=$PYTHON is not a Python >= 3.10"
        apt_or_say "python3 python3-venv" "no Python >= 3.10 on the PATH"
        python=$(find_python) || die "this system's python3 is $(python3 --version); Python >= 3.10 is needed: make ... PYTHON=/path/to/python3"
    fi
    # Debian ships venv without ensurepip until python3-venv is there.
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        apt_or_say "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv" "$python lacks the venv module"
    echo "venv: creating $VENV with $("$python" --version) ($python)"
    "$python" -m venv --clear "$VENV"
}

# PyTorch's own index offers a CPU build a tenth the size of PyPI's CUDA build. Take it where no NVIDIA driver can use CUDA.
torch_index() {
    local cpu=https://download.pytorch.org/whl/cpu
    if [ -n "${TORCH_INDEX:-}" ]; then
        echo "$TORCH_INDEX"
    elif [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null &&
        "$VENV/bin/python" -c "import urllib.request as u; u.urlopen('$cpu/torch/', timeout=5)" 2>/dev/null; then
        echo $cpu
    fi
}

install_torch() {
    "$VENV/bin/python" -c 'import torch' 2>/dev/null && return
    local index
    index=$(torch_index)
    echo "venv: installing torch${index:+ from $index}"
    "${PIP[@]}" install ${index:+--extra-index-url "$index"} -c constraints.txt torch
}

"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
install_torch
[ "$what" != torch ] || exit 0
extra="[vla]"  # the demo's teacher is a VLA
[ "$what" = core ] || extra="[$what]"
echo "venv: installing rpd$extra"
"${PIP[@]}" install -c constraints.txt -e ".$extra"
touch "$VENV/.$what"
