"""What the README and docs show works: their commands parse, links lead somewhere, programs run."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rpd.cli import main
from rpd.cli.bench import BenchOptions
from rpd.cli.collect import CollectOptions
from rpd.cli.convert import ConvertOptions
from rpd.cli.data import DataOptions
from rpd.cli.deploy import DeployConfig
from rpd.cli.eval import EvalOptions
from rpd.cli.export import ExportOptions
from rpd.cli.log import LogOptions
from rpd.cli.options.finetune import FinetuneOptions
from rpd.cli.options.generalist import GeneralistOptions
from rpd.cli.options.listing import ListOptions
from rpd.cli.options.report import ReportOptions
from rpd.cli.options.train import residual_options, train_options
from rpd.cli.options.tune import tune_options
from rpd.cli.serve import ServeConfig
from rpd.cli.sweep import SweepOptions
from rpd.cli.teacher import ShowOptions
from rpd.config.parser import parse
from rpd.envs.gym.names import PACKAGES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
OPTIONS = {
    "sweep": SweepOptions, "generalist": GeneralistOptions, "eval": EvalOptions, "data": DataOptions,
    "bench": BenchOptions, "serve": ServeConfig,
    "export": ExportOptions, "deploy": DeployConfig, "log": LogOptions,
    "report": ReportOptions, "list": ListOptions,
}  # fmt: skip
GUIDES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
PAGES = README + "".join(path.read_text() for path in GUIDES)
TINY = shlex.split(
    "--total-timesteps 128 --env.num-envs 8 --ppo.num-steps 8 --eval-episodes 4 --final-eval-episodes 4 --num-threads 1"
)


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    lines = "".join(blocks("sh", PAGES)).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def program(containing: str) -> str:
    return next(block for block in blocks("python") if containing in block)


def complete(words: list[str]) -> bool:
    """Whether a command needs no file of a user's own, beyond mine.yaml."""
    return words[0] == "rpd" and "--import" not in words and not any(".py:" in w for w in words)


@pytest.mark.parametrize("words", [w for w in commands() if complete(w)], ids=" ".join)
def test_command_is_understood(words, tmp_path, monkeypatch):
    if any("maniskill/" in w for w in words) and importlib.util.find_spec("mani_skill") is None:
        pytest.skip("mani-skill is not installed")
    for package in PACKAGES:
        named = any(re.match(f"gym/{package.names}", w) for w in words)
        if named and importlib.util.find_spec(package.module) is None:
            pytest.skip(f"{package.project} is not installed")
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(blocks("yaml")[0])
    verb, *args = words[1:]
    assert verb in main.VERBS
    if verb in ("train", "residual", "tune"):
        {"train": train_options, "residual": residual_options, "tune": tune_options}[verb](args)
    elif verb == "teacher":
        parse({"show": ShowOptions, "finetune": FinetuneOptions, "convert": ConvertOptions}[args[0]], args[1:], verb)
    elif words[1:3] == ["data", "collect"]:
        parse(CollectOptions, args[1:], verb)
    elif verb in OPTIONS:
        parse(OPTIONS[verb], args, verb)


def test_every_verb_and_make_target_is_shown():
    assert {w[1] for w in commands() if w[0] == "rpd"} == set(main.VERBS)
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {w[1] for w in commands() if w[0] == "make"} <= targets


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        file, _, anchor = target.partition("#")
        assert (ROOT / file).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (ROOT / (file or "README.md")).read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, target


def test_own_task_robot_and_teacher(tmp_path):
    (tmp_path / "my_rpd.py").write_text(program("# my_rpd.py"))
    train, judge = [w[1:] for w in commands() if w[0] == "rpd" and "my_rpd.py" in w]
    for own in ([*train, *TINY], [*judge, "--episodes", "2", "--video", "False"]):
        command = [sys.executable, "-m", "rpd.cli.main", *own]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=False)
        assert done.returncode == 0, done.stderr
        assert "grabber" in done.stdout


def test_public_api_trains_and_compares(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = program("rpd.train").replace("episodes=200", "episodes=2")
    tiny = "ppo={'num_steps': 8}, total_timesteps=64, eval_episodes=2, final_eval_episodes=2, num_threads=1"
    exec(compile(text.replace('env={"num_envs": 64}', f'env={{"num_envs": 8}}, {tiny}'), "README.md", "exec"), {})
    assert "n=2" in capsys.readouterr().out


def test_policy_is_used_outside_of_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(["train", "tabletop/Reach", "--algorithm", "ppo", "--name", "x", *TINY]) == 0
    exec(compile(program("rpd.load_policy").replace("PickCube", "Reach"), "README.md", "exec"), {})
    assert "False" in capsys.readouterr().out  # 50 steps: every episode ended


def test_every_public_name_is_shown():
    import rpd

    functions = {name for name in rpd.__all__ if name.islower() and not name.startswith("_")}
    assert not {name for name in functions if f"`{name}`" not in README}


def test_stable_baselines_policy(tmp_path, monkeypatch):
    pytest.importorskip("stable_baselines3")
    monkeypatch.chdir(tmp_path)
    exec(compile(program("stable_baselines3").replace("200_000", "2_048"), "README.md", "exec"), {})
    assert main.main(["eval", "sb3:push.zip", "--task", "tabletop/PushCube", "--episodes", "4", "--video", "False"]) == 0


def test_policy_references_example(capsys):
    page = (ROOT / "docs" / "policy-references.md").read_text()
    exec(compile(blocks("python", page)[0], "policy-references.md", "exec"), {})
    assert 0 <= float(capsys.readouterr().out.split()[-1]) <= 1
