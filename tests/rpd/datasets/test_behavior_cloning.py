"""Batches of demonstrations for behavior cloning."""

import numpy as np
import pytest
import torch

from rpd.core.distributed import SOLO
from rpd.datasets.behavior_cloning import DemoSource
from rpd.datasets.reader import Demos, open_demos
from rpd.datasets.statistics import dataset_statistics
from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.students.config import StudentConfig

pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def demos(collect, tmp_path_factory):
    """States of an expert at Reach, with noise on what is executed."""
    folder = tmp_path_factory.mktemp("demos") / "x"
    assert collect(folder, "tabletop/Reach", episodes=40, per_file=20, env__obs_mode="state", env__image_size=None) == 0
    return folder


def source(path, spec=None, config=None):
    spec = registry.make("tabletop/Reach", EnvConfig(num_envs=1)).spec if spec is None else spec
    return DemoSource([path], spec, config or StudentConfig(), torch.Generator().manual_seed(0))


def test_rows_equal_recorded_steps(demos):
    drawn = source(demos).draw(SOLO.share(64))
    rows = source(demos).rows
    assert drawn.batch_size == (64,)
    for state, label in zip(drawn["obs", "state"], drawn["actions"], strict=True):
        at = (rows.tensors["state"] == state).all(-1).nonzero()[0, 0]
        assert torch.equal(rows.tensors["label"][at], label)
    assert torch.equal(source(demos).states, rows.tensors["state"])


def test_gripper_of_0_to_1_is_refused(demos, monkeypatch):
    """By whatever learns from demonstrations, before it starts."""
    read = Demos.read

    def halved(self, episode, key, steps=None):
        rows = read(self, episode, key, steps)
        return rows if key != "label" else np.concatenate([rows[:, :6], np.arange(len(rows))[:, None] % 2], axis=1)

    monkeypatch.setattr(Demos, "read", halved)
    with pytest.raises(ConfigError, match=r"demonstrations of tabletop/Reach: 'gripper' ranges from 0 to 1, all on one side"):
        source(demos)
    with pytest.raises(ConfigError, match="'gripper' ranges from 0 to 1"):
        dataset_statistics(open_demos(demos), "x")


def test_constant_gripper_gives_a_warning(demos, monkeypatch, capsys):
    read = Demos.read

    def still(self, episode, key, steps=None):
        rows = read(self, episode, key, steps)
        return rows if key != "label" else np.concatenate([rows[:, :6], np.zeros((len(rows), 1))], axis=1)

    monkeypatch.setattr(Demos, "read", still)
    source(demos)
    assert "'gripper' is always 0, neither +1 nor -1: students choose it at random" in capsys.readouterr().out
