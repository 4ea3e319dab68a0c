#!/usr/bin/env bash
# Build the wheel, install it into an empty environment, and use it there, away from the source tree: the command line, and a
# script in a folder whose own packages have the names of this repository's folders.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

.venv/bin/python -m pip -qq wheel --no-deps -w "$work" .
wheel=("$work"/rpd_distill-*.whl)
.venv/bin/python -m zipfile -l "${wheel[0]}" | awk 'NR > 1 {print $1}' | sort > "$work/files"
missing=$(comm -23 <(find -L rpd -type f -not -path '*/__pycache__/*' | sort) "$work/files")
[ -z "$missing" ] || { echo "wheel: lacks $missing" >&2; exit 1; }
packages=$(cut -d/ -f1 "$work/files" | grep -v '\.dist-info$' | sort -u)
[ "$packages" = rpd ] || { echo "wheel: has other packages than rpd:" $packages >&2; exit 1; }

RPD_VENV="$work/venv" PYTHON="$PWD/.venv/bin/python" bash scripts/venv.sh torch
"$work/venv/bin/python" -m pip --disable-pip-version-check -qq install -c constraints.txt "${wheel[0]}[export]"

user="$work/user"
for package in envs teachers students configs; do
    mkdir -p "$user/$package"
    echo 'raise ImportError("a package of the user was imported in place of one of rpd")' > "$user/$package/__init__.py"
done
cat > "$user/script.py" <<'PYTHON'
import rpd

if __name__ == "__main__":
    options = {"env": {"num_envs": 8}, "ppo": {"num_steps": 8}, "eval_episodes": 2, "device": "cpu"}
    run = rpd.train(task="tabletop/PushCube", teacher="scripted", total_timesteps=64, name="script", **options)
    result = rpd.evaluate(run.path, episodes=4, device="cpu")
    exported = rpd.export_policy(run.path)
    print(f"script: {result.successes}/{result.n} solved, exported to {exported.folder}")
PYTHON

cd "$user"
export -n PYTHONPATH
"$work/venv/bin/rpd" list
"$work/venv/bin/rpd" train tabletop/PushCube --teacher scripted --total-timesteps 64 --env.num-envs 8 --ppo.num-steps 8 \
    --eval-episodes 2 --device cpu
"$work/venv/bin/python" script.py
"$work/venv/bin/python" runs/script/export/onnx/policy.py
echo "wheel: ${wheel[0]##*/} installs; the command line trains; import rpd trains, evaluates and exports"
