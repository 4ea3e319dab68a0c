"""Help and mistakes are answered without torch, which takes seconds to import."""

import json
import subprocess
import sys
from pathlib import Path

from rpd.cli.main import VERBS

ROOT = Path(__file__).parents[3]
PROGRAM = """
import contextlib, io, json, sys
from rpd.cli.main import main
HEAVY = {
    "torch", "tensordict", "mani_skill", "libero", "transformers", "tensorboard", "mujoco", "matplotlib", "plotly", "jinja2",
    "gymnasium", "scipy", "pandas", "imageio", "PIL", "wandb", "mlflow",
}
answers = []
for line in json.load(sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(line.split())
        except SystemExit as exit:
            code = exit.code or 0
    answers.append([line, code, out.getvalue(), err.getvalue(), sorted(HEAVY & set(sys.modules))])
json.dump(answers, sys.stdout)
"""
PARTS = ["teacher show", "teacher finetune", "doctor --plan"]


def run(lines):
    """Every command line in one fresh process: (line, exit code, stdout, stderr, what was imported)."""
    given = json.dumps(lines)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=given, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(done.stdout)


def test_help():
    for line, code, out, err, loaded in run([f"{verb} --help" for verb in [*VERBS, *PARTS, "train tabletop/PickCube"]]):
        assert (code, loaded) == (0, []), (line, err)
        assert "usage" in out, line


def test_invalid_input_gives_one_line():
    lines = [f"{verb} --nope" for verb in [*VERBS, "teacher show", "teacher finetune"]]
    lines += ["trian", "teacher shwo", "list tasks a b", "train tabletop/PickCubee", "train tabletop/PickCube --ppo.lrr 1"]
    lines += [
        "train navigate/Open --env.num-envs 0",
        "train tabletop/PickCube --config none.yaml",
        "doctor --plan tabletop/There",
    ]
    for line, code, out, err, loaded in run(lines):
        assert (code, out, loaded) == (2, "", []), (line, out, err)
        assert err.startswith("rpd") and err.count("\n") == 1


def test_list_distillation():
    (_, code, out, err, loaded), *_ = run(["list distillation"])
    assert (code, loaded) == (0, []), err
    assert "opd" in out
