#!/usr/bin/env bash
# From a VLA that half works to an expert: distil the model that ships, which acts from pixels and words; compare, report.
set -euo pipefail
cd "$(dirname "$0")/.."
rpd=.venv/bin/rpd
task=${TASK:-tabletop/PickCube}
if .venv/bin/python -c 'import transformers' 2>/dev/null; then
    teacher=${TEACHER:-zoo/tabletop}
else
    teacher=${TEACHER:-scripted:biased}
    echo "demo: the VLA needs Python 3.11 or newer; the teacher is $teacher instead"
fi
run=runs/demo-$(date +%Y%m%d-%H%M%S)

"$rpd" train "$task" --teacher "$teacher" --total-steps 150000 --eval-every 25000 --name "${run#runs/}"
"$rpd" eval "teacher:$teacher" "$run" --out "$run/eval"
"$rpd" report "$run" >/dev/null
echo
echo "Look at"
echo "  $run/report.html    numbers, learning curves, videos (one file, works offline)"
echo "  $(ls "$run"/eval/*/side_by_side.mp4)    teacher and student on the same seeds"
