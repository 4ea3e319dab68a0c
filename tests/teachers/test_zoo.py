"""The models that ship: small, in the official layout, and fit to teach."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rpd.cli.main import main
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.evaluation.evaluate import evaluate
from rpd.policies.cameras import with_teacher_cameras
from rpd.teachers import registry, zoo

FOLDER = Path(zoo.__file__).parent


@pytest.mark.parametrize("name", zoo.MODELS)
def test_folder(name):
    """At most 8 MB, with a card that says how it was made; nothing lies here that no name leads to."""
    files = {f.name: f.stat().st_size for f in (FOLDER / name).iterdir()}
    assert sum(files.values()) <= 8e6
    assert {"config.json", "README.md", "action_mapping.yaml"} <= files.keys()
    assert f"python scripts/zoo.py {name}" in (FOLDER / name / "README.md").read_text()
    assert {f.name for f in FOLDER.iterdir() if f.is_dir() and f.name != "__pycache__"} == set(zoo.MODELS)


@pytest.mark.parametrize(("name", "least"), [("tabletop", 12), ("tabletop-octo", 6)])
def test_zoo_model_pushes(name, least):
    env = envs.make("tabletop/PushCube", with_teacher_cameras(EnvConfig(num_envs=24), f"zoo/{name}"))
    teacher = registry.make(f"zoo/{name}", env.spec)
    assert sum(e.success_once for e in evaluate(env, teacher, 24, seed=0).episodes) >= least
    env.close()


def test_labels_with_a_distribution():
    name = "zoo/tabletop"
    env = envs.make("tabletop/PickCube", with_teacher_cameras(EnvConfig(num_envs=3), name))
    teacher = registry.make(name, env.spec)
    assert teacher.name == name and not any(w.requires_grad for w in teacher.weights().values())
    obs = env.reset(0)
    out = teacher.label(obs.update(env.teacher_images()), env.instructions, torch.zeros(3, env.spec.action.dim))
    assert out.mean.shape == (3, 7) and out.bin_logits.shape[:2] == (3, 7)
    torch.testing.assert_close(out.bin_logits.exp().sum(-1), torch.ones(3, 7))
    assert torch.isfinite(out.log_prob).all()
    env.close()


def test_labels_with_samples():
    name = "zoo/tabletop-octo,samples=16"
    env = envs.make("tabletop/PickCube", with_teacher_cameras(EnvConfig(num_envs=3), name))
    teacher = registry.make(name, env.spec)
    obs = env.reset(0)
    out = teacher.label(obs.update(env.teacher_images()), env.instructions)
    assert out.samples.shape == (3, 16, 7) and out.samples.abs().max() <= 1
    torch.testing.assert_close(out.samples.mean(1), out.mean)
    assert set(out.samples[..., 6].flatten().tolist()) <= {-1.0, 1.0}
    env.close()


@pytest.mark.parametrize(
    ("name", "distill"),
    [("tabletop", "mse"), ("tabletop", "rkl"), ("tabletop", "opd"), ("tabletop-octo", "nearest"), ("tabletop-octo", "rkl")],
)
def test_zoo_teacher_trains_a_student(name, distill, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = ["tabletop/PushCube", "--teacher", f"zoo/{name}", "--distill", distill, "--total-timesteps", "64"]
    args += [
        "--env.num-envs",
        "8",
        "--ppo.num-steps",
        "8",
        "--eval-episodes",
        "2",
        "--final-eval-episodes",
        "2",
        "--device",
        "cpu",
        "--name",
        "x",
    ]
    assert main(["train", *args]) == 0
    assert f"zoo/{name}" in (tmp_path / "runs/x/config.yaml").read_text()


def test_no_such_model():
    with pytest.raises(ConfigError, match="unknown model of the zoo 'zoo/tabeltop': did you mean zoo/tabletop"):
        registry.make("zoo/tabeltop", spec=None)
