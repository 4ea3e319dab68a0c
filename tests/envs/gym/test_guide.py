"""The programs of docs/gymnasium.md run; an environment of ten lines trains as it is shown there."""

import re
import sys
from pathlib import Path

import gymnasium
import pytest

from rpd.cli.main import main
from rpd.envs import user_files

PAGE = (Path(__file__).parents[3] / "docs" / "gymnasium.md").read_text()
TINY = "--total-timesteps 32 --env.num-envs 2 --ppo.num-steps 16 --eval-episodes 2 --final-eval-episodes 2 --num-threads 1"


def programs():
    return re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_registered_task():
    kept = dict(gymnasium.registry)
    try:
        exec(compile(programs()[1], "gymnasium.md", "exec"), names := {})
        assert names["obs"].shape[0] == 4
    finally:
        gymnasium.registry.clear()
        gymnasium.registry.update(kept)


def test_ppo_of_rsl_rl(tmp_path, monkeypatch, capsys):
    pytest.importorskip("rsl_rl")
    monkeypatch.chdir(tmp_path)
    code = programs()[2].replace("num_envs=128", "num_envs=8").replace("256, 256", "16").replace("learn(60)", "learn(2)")
    exec(compile(code, "gymnasium.md", "exec"), names := {})
    assert (tmp_path / "runs/rsl_rl/model_0.pt").exists() and "/success" in capsys.readouterr().out
    names["env"].env.close()


@pytest.mark.slow
def test_own_environment_trains(tmp_path, monkeypatch, capsys):
    code = programs()[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    (command,) = re.findall(r"^rpd (train gym/reach.py:Reach .*)$", PAGE, re.MULTILINE)
    (tmp_path / "reach.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_files, "_loaded", [])
    monkeypatch.setenv(user_files.VARIABLE, "")
    try:
        assert main([*command.split(), *TINY.split(), "--ppo.num-minibatches", "1"]) == 0
    finally:
        sys.modules.pop("reach", None)
    assert "gym/reach.py:Reach" in capsys.readouterr().out
