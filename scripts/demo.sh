#!/usr/bin/env bash
# From a weak teacher to an expert on the built-in PickCube, and a report that shows both.
set -euo pipefail
cd "$(dirname "$0")/.."
rpd=.venv/bin/rpd
run=runs/demo-$(date +%Y%m%d-%H%M%S)

"$rpd" train tabletop/PickCube --config configs/tabletop/demo.yaml --out "$run"
"$rpd" report "$run"
