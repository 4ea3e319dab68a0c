"""docs/gymnasium.md: an environment of ten lines trains as it is shown there."""

import re
import sys
from pathlib import Path

import pytest

from rpd.cli.main import main
from rpd.envs import user_files

PAGE = (Path(__file__).parents[3] / "docs" / "gymnasium.md").read_text()
TINY = "--total-timesteps 32 --env.num-envs 2 --ppo.num-steps 16 --eval-episodes 2 --final-eval-episodes 2 --num-threads 1"


@pytest.mark.slow
def test_own_environment_trains(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
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
