#!/usr/bin/env bash
# Build the wheel, install it into an empty environment, and train 64 steps there, away from the source tree.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

.venv/bin/python -m pip -qq wheel --no-deps -w "$work" .
wheel=("$work"/rpd-*.whl)
missing=$(comm -23 <(find configs rpd envs teachers students -type f -not -path '*/__pycache__/*' | sort) <(.venv/bin/python -m zipfile -l "${wheel[0]}" | awk '{print $1}' | sort))
[ -z "$missing" ] || { echo "wheel: lacks $missing" >&2; exit 1; }

RPD_VENV="$work/venv" PYTHON="$PWD/.venv/bin/python" bash scripts/venv.sh torch
"$work/venv/bin/python" -m pip --disable-pip-version-check -qq install -c constraints.txt "${wheel[0]}"

cd "$work"
"$work/venv/bin/rpd" list
"$work/venv/bin/rpd" train tabletop/PushCube --teacher scripted --total-steps 64 --env.num-envs 8 --ppo.num-steps 8 \
    --eval-episodes 2 --device cpu
echo "wheel: ${wheel[0]##*/} installs and trains"
