#!/usr/bin/env bash
# From a weak teacher to an expert on the built-in PickCube: train, compare both on the same seeds, report.
set -euo pipefail
cd "$(dirname "$0")/.."
rpd=.venv/bin/rpd
teacher=${TEACHER:-scripted:biased}
run=runs/demo-$(date +%Y%m%d-%H%M%S)

"$rpd" train tabletop/PickCube --teacher "$teacher" --total-steps 250000 --eval-every 25000 --name "${run#runs/}"
"$rpd" eval "teacher:$teacher" "$run" --out "$run/eval"
"$rpd" report "$run" >/dev/null
echo
echo "Look at"
echo "  $run/report.html    numbers, learning curves, videos (one file, works offline)"
echo "  $(ls "$run"/eval/*/side_by_side.mp4)    teacher and student on the same seeds"
