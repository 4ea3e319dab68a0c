#!/usr/bin/env bash
# Make .venv-lerobot: the packages of .venv, and the real lerobot for the tests of its driver. Safe to repeat; seconds.
# LeRobot's pins (torch, numpy, huggingface-hub, ...) are not ours, so it and what its robots import are installed without their
# dependencies; a placeholder stands in for its parts that robots import and do not use (no torchvision, no video).
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=.venv-lerobot
PACKAGES="lerobot==0.4.4 feetech-servo-sdk==1.0.0 pyserial==3.5 draccus==0.10.0 deepdiff==8.6.1 mergedeep==1.3.4 toml==0.10.2
typing-inspect==0.9.0 pyyaml-include==1.4.1 einops==0.8.1 orderly-set==5.5.0"

[ ! -e "$VENV/.made" ] || [ "$VENV/.made" -ot "$0" ] || exit 0
.venv/bin/python -m venv --clear --without-pip "$VENV"
site=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/main.pth"
.venv/bin/python -m pip --disable-pip-version-check -qq install --no-deps --target "$site" $PACKAGES
rm -rf "$site/tests"  # draccus's own; it would hide ours
cp tests/rpd/deploy/wire/unused_by_robots.py "$site"
echo "import unused_by_robots" >"$site/unused_by_robots.pth"
touch "$VENV/.made"
