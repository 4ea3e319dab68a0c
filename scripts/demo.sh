#!/usr/bin/env bash
# From a small VLA, which acts from pixels and words and half works, to an expert: train, compare both on the same seeds, report.
set -euo pipefail
cd "$(dirname "$0")/.."
rpd=.venv/bin/rpd
task=${TASK:-tabletop/PickCube}
teacher=${TEACHER:-zoo/tabletop}
if [ -z "${TEACHER:-}" ] && ! .venv/bin/python -c 'import transformers' 2>/dev/null; then
    echo "demo: no transformers here (it needs Python >= 3.11): a scripted teacher stands in for the VLA"
    teacher=scripted:biased
fi
run=runs/demo-$(date +%Y%m%d-%H%M%S)

"$rpd" train "$task" --teacher "$teacher" --distill rkl --total-timesteps 250000 --eval-freq 25000 --name "${run#runs/}"
"$rpd" eval "$teacher" "$run" --out "$run/eval"
"$rpd" report "$run" >/dev/null
echo
echo "Look at"
echo "  $run/report.html    numbers, learning curves, videos (one file, works offline)"
echo "  $(ls "$run"/eval/*/side_by_side.mp4)    teacher and student on the same seeds"
