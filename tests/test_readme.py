"""What the README and docs show works: their commands parse, links lead somewhere, programs run."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rpd import cli
from rpd.arguments import parse
from rpd.bench.command import BenchOptions
from rpd.cloning.config import CloneOptions
from rpd.collect import CollectOptions
from rpd.convert import ConvertOptions
from rpd.demos.command import DemosOptions
from rpd.deploy.command import DeployOptions
from rpd.deploy.replay import ReplayOptions
from rpd.evaluation import EvalOptions
from rpd.export.command import ExportOptions
from rpd.generalist.config import DistillOptions
from rpd.serve.main import ServeOptions
from rpd.settings import residual_options, train_options
from rpd.sweep import SweepOptions
from rpd.teacher import ShowOptions

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
OPTIONS = {
    "sweep": SweepOptions, "distill": DistillOptions,
    "eval": EvalOptions, "collect": CollectOptions, "demos": DemosOptions, "bench": BenchOptions, "serve": ServeOptions,
    "convert": ConvertOptions, "export": ExportOptions, "deploy": DeployOptions, "replay": ReplayOptions,
}  # fmt: skip
PAGES = README + "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
TINY = shlex.split("--total-steps 128 --env.num-envs 8 --ppo.num-steps 8 --eval-episodes 4 --final-episodes 4 --num-threads 1")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    lines = "".join(blocks("sh", PAGES)).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def program(containing: str) -> str:
    return next(block for block in blocks("python") if containing in block)


@pytest.mark.parametrize("words", [w for w in commands() if w[0] == "rpd"], ids=" ".join)
def test_command_is_understood(words, tmp_path, monkeypatch):
    if any("maniskill/" in w for w in words) and importlib.util.find_spec("mani_skill") is None:
        pytest.skip("mani-skill is not installed")
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(blocks("yaml")[0])
    verb, *args = words[1:]
    assert verb in cli.VERBS
    if verb in ("train", "residual"):
        {"train": train_options, "residual": residual_options}[verb](args)
    elif verb == "teacher":
        parse({"show": ShowOptions, "train": CloneOptions}[args[0]], args[1:], verb)
    elif verb in OPTIONS:
        parse(OPTIONS[verb], args, verb)


def test_every_verb_and_make_target_is_shown():
    assert {w[1] for w in commands() if w[0] == "rpd"} == set(cli.VERBS)
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {w[1] for w in commands() if w[0] == "make"} <= targets


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        if target.startswith("#"):
            headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
            assert target[1:] in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, target
        else:
            assert (ROOT / target).exists(), target


def test_own_task_robot_and_teacher(tmp_path):
    (tmp_path / "my_rpd.py").write_text(program("# my_rpd.py"))
    own = next(w[1:] for w in commands() if w[:3] == ["python", "my_rpd.py", "train"])
    done = subprocess.run(
        [sys.executable, *own, *TINY], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "teacher grabber" in done.stdout


def test_policy_is_used_outside_of_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "tabletop/Reach", "--mode", "ppo", "--name", "x", *TINY]) == 0
    exec(compile(program("from_pretrained"), "README.md", "exec"), {})
    assert "False" in capsys.readouterr().out  # 50 steps: every episode ended


def test_stable_baselines_policy(tmp_path, monkeypatch):
    pytest.importorskip("stable_baselines3")
    monkeypatch.chdir(tmp_path)
    exec(compile(program("stable_baselines3").replace("200_000", "2_048"), "README.md", "exec"), {})
    assert cli.main(["eval", "teacher:sb3:push.zip", "--task", "tabletop/PushCube", "--episodes", "4", "--video", "False"]) == 0
