"""`rpd bench env` of Gymnasium environments: rows of ours and theirs, ratios, refusals."""

import pytest
from gymnasium import registry
from gymnasium.envs.registration import EnvSpec

from rpd.bench import gymnasium
from rpd.cli.main import main
from rpd.envs.errors import ConfigError


@pytest.mark.slow
def test_workers_are_compared_with_gymnasiums(monkeypatch):
    monkeypatch.setattr(gymnasium, "STEPS", 3)
    found = gymnasium.measure("gym/Pendulum-v1", 2, 2, 1)
    assert [row[0] for row in found.rows] == ["our workers", "AsyncVectorEnv", "SyncVectorEnv"]
    assert all(0 < row[1] <= row[2] <= row[3] for row in found.rows)
    assert [note.split(":")[0] for note in found.notes[1:]] == [
        "our workers to AsyncVectorEnv", "our workers to SyncVectorEnv",
    ]  # fmt: skip


def test_refusals(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry, "OnlyVector-v0", EnvSpec("OnlyVector-v0", vector_entry_point="somewhere:Vector"))
    with pytest.raises(ConfigError, match="is a vector environment already"):
        gymnasium.measure("gym/OnlyVector-v0", 2, 1, 1)
    assert main(["bench", "env", "--task", "gym/Pendulum-v1", "--image-size", "32"]) == 2
    assert "leave out --image-size" in capsys.readouterr().err
