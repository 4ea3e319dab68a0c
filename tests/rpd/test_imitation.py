"""Behaviour cloning of students: ordinary runs whose batches come from demonstrations."""

import json

import pytest
import torch

from envs import registry
from envs.base import EnvConfig
from envs.errors import ConfigError, SpecMismatch
from rpd import checkpoint
from rpd.demos.reader import open_demos
from rpd.imitation import DemoSource
from rpd.track import read_metrics
from rpd.trainer import Trainer
from students.config import StudentConfig

pytest.importorskip("h5py")
BC = {"mode": "bc", "teacher": None, "task": "tabletop/Reach"}


@pytest.fixture(scope="module")
def demos(collect, tmp_path_factory):
    """States of an expert at Reach, with noise on what is executed."""
    folder = tmp_path_factory.mktemp("demos") / "x"
    assert collect(folder, "tabletop/Reach", episodes=40, per_file=20, env__obs="state", env__image_size=None) == 0
    return folder


def source(path, spec=None, config=None):
    spec = registry.make("tabletop/Reach", EnvConfig(num_envs=1)).spec if spec is None else spec
    return DemoSource([path], spec, config or StudentConfig(), torch.Generator().manual_seed(0))


def test_rows_are_what_was_recorded(demos):
    drawn = source(demos).draw(64)
    rows = source(demos).rows
    assert drawn.batch_size == (64,) and drawn["teacher.valid"].all()
    for state, label in zip(drawn["obs", "state"], drawn["teacher.mean"], strict=True):
        at = (rows.tensors["state"] == state).all(-1).nonzero()[0, 0]
        assert torch.equal(rows.tensors["label"][at], label)


def test_a_clone_learns_the_task(small, demos, tmp_path):
    config = small(
        **BC, demos=(demos,), student={"hidden": (64,), "reads": ("tcp_lag", "goal")}, total_steps=96_000, eval_every=96_000,
        ppo={"num_steps": 150, "epochs": 1, "minibatches": 4, "lr": 3e-3}, env={"num_envs": 8, "max_episode_steps": 25},
        final_episodes=40, checkpoint_every=96_000,
    )  # fmt: skip
    assert Trainer(config, tmp_path).run()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["mode"] == "bc" and result["student"]["successes"] >= 38
    metrics = read_metrics(tmp_path)
    assert metrics[-1]["distill/divergence"] < metrics[0]["distill/divergence"] and "time/demos" in metrics[0]


def test_resumes_bit_for_bit(small, demos, tmp_path):
    config = small(**BC, demos=(demos,), total_steps=96)
    assert Trainer(config, tmp_path / "straight").run()
    saved = checkpoint.load(tmp_path / "straight" / "checkpoints" / "000000064")
    (tmp_path / "again").mkdir()
    assert Trainer(config, tmp_path / "again", saved).run()
    a, b = (tmp_path / run / "checkpoints" / "last" / "policy" / "model.safetensors" for run in ("straight", "again"))
    assert a.read_bytes() == b.read_bytes()


def test_images_and_beliefs(small, collect, tmp_path):
    assert collect(tmp_path / "x", "tabletop/Reach", episodes=4, privileged="True") == 0
    env = {"obs": "image", "image_size": 16}
    sight = {"perception": {"minibatches": 2, "minibatch_size": 8, "keep": 50}}
    for student in ({}, {"perceive": True, "asymmetric_critic": True}):
        trainer = Trainer(small(**BC, **sight, demos=(tmp_path / "x",), env=env, student=student), tmp_path / "run")
        assert ("perception/object" in trainer.iterate()) == bool(student)
        trainer.close()
    with pytest.raises(SpecMismatch, match=r"image.front was recorded as \[16, 16, 3\], the student sees \[32, 32, 3\]"):
        Trainer(small(**BC, demos=(tmp_path / "x",), env={"obs": "image", "image_size": 32}), tmp_path / "run")


def test_frames_are_those_of_the_episode(small, collect, tmp_path):
    """A row of demonstrations is seen as the environment would have shown it, and a student with a past can be recorded."""
    assert collect(tmp_path / "x", "tabletop/Reach", episodes=4) == 0
    trainer = Trainer(
        small(**BC, demos=(tmp_path / "x",), env={"obs": "image", "image_size": 16, "frames": 3}), tmp_path / "run"
    )
    rows, spec = trainer.demos.rows, trainer.env.spec
    trainer.policy.save_pretrained(tmp_path / "policy")
    trainer.iterate()
    trainer.close()
    index = torch.tensor([0, 1, 2, 5, int((rows.episode == 1).nonzero()[0])])
    for i, image in zip(index.tolist(), rows[index]["image.front"], strict=True):
        first = i - int(rows.step[i])
        for frame, j in zip(image.split(3, dim=-1), (i - 2, i - 1, i), strict=True):
            assert torch.equal(frame, rows.tensors["image.front"][max(first, j)])
    state = rows.demos.read(0, "state", [0])
    assert spec.frames == 3 and state.shape[1:] == spec.observations["state"].shape
    other = {"policy": tmp_path / "policy", "teacher": None, "env__frames": 3, "keep": "all"}
    assert collect(tmp_path / "y", "tabletop/Reach", episodes=2, **other) == 0
    assert open_demos(tmp_path / "y").read(0, "image.front", [0]).shape == (1, 16, 16, 3)


def test_what_cannot_be_learnt_from(small, demos, tmp_path):
    with pytest.raises(ConfigError, match="mode bc needs demonstrations: add --demos"):
        Trainer(small(**BC), tmp_path)
    with pytest.raises(ConfigError, match="mode bc uses no teacher"):
        Trainer(small(**BC | {"teacher": "scripted"}, demos=(demos,)), tmp_path)
    with pytest.raises(ConfigError, match=r"unknown task in .* 'tabletop/PushCube'"):
        Trainer(small(**BC | {"task": "tabletop/PushCube"}, demos=(demos,)), tmp_path)
    with pytest.raises(SpecMismatch, match=r"robot differ: demonstrations of tabletop/Reach have panda; .* has xarm6"):
        Trainer(small(**BC, demos=(demos,), env={"robot": "xarm6"}), tmp_path)
    with pytest.raises(ConfigError, match="no 'privileged', which the student reads: record with --privileged True"):
        Trainer(small(**BC, demos=(demos,), student={"asymmetric_critic": True}), tmp_path)
    with pytest.raises(ConfigError, match="teacher demonstrations provides only mean"):
        Trainer(small(**BC, demos=(demos,), distill={"divergence": "fkl"}), tmp_path)
