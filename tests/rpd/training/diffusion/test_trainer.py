"""Runs of diffusion policies: they learn a task, resume, are evaluated, teach and are compared, as any run."""

import json

import pytest
import torch

from rpd.cli.main import main
from rpd.core.distributed import SOLO
from rpd.datasets.action_chunks import ChunkSource
from rpd.datasets.behavior_cloning import DemoSource
from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.runs import checkpoint
from rpd.runs.tracker import read_metrics
from rpd.students.config import StudentConfig
from rpd.training.behavior_cloning import BehaviorCloningTrainer
from rpd.training.on_policy import OnPolicyTrainer

pytest.importorskip("h5py")
pytest.importorskip("diffusers")
BC = {
    "algorithm": "bc", "teacher": None, "task": "tabletop/Reach", "student": {"type": "diffusion",
    "state_keys": ("tcp_lag", "goal")},
    "diffusion": {"horizon": 4, "width": 16, "depth": 1, "noise": "action", "num_train_timesteps": 20},
    "bc": {"batch_size": 32, "warmup_steps": 5},
}  # fmt: skip


@pytest.fixture(scope="module")
def demos(collect, tmp_path_factory):
    """States of an expert at Reach, with noise on what is executed."""
    folder = tmp_path_factory.mktemp("demos") / "x"
    assert collect(folder, "tabletop/Reach", episodes=40, per_file=20, env__obs_mode="state", env__image_size=None) == 0
    return folder


@pytest.fixture(scope="module")
def run(small, demos, tmp_path_factory):
    """A run that has learnt to reach."""
    folder = tmp_path_factory.mktemp("runs") / "reach"
    config = small(
        **BC, demos=(demos,), total_timesteps=64 * 400, eval_freq=64 * 400, save_freq=64 * 400, final_eval_episodes=40,
        env={"max_episode_steps": 25},
    ).model_copy(deep=True)  # fmt: skip
    config.bc.batch_size, config.bc.learning_rate = 64, 5e-3
    assert BehaviorCloningTrainer(config, folder).run()
    return folder


def test_windows_and_chunks_stay_in_their_episode(demos):
    spec = registry.make("tabletop/Reach", EnvConfig(num_envs=1)).spec
    source = DemoSource([demos], spec, StudentConfig(), torch.Generator().manual_seed(0))
    data = ChunkSource(source, n_obs=3, horizon=4)
    batch = data.draw(SOLO.share(64))
    assert batch["obs", "state"].shape[:2] == (64, 3) and batch["actions"].shape[:2] == (64, 4)
    rows, states = source.rows, source.states
    for seen, chunk in zip(batch["obs", "state"], batch["actions"], strict=True):
        (at,) = (states == seen[-1]).all(-1).nonzero()[:1, 0].tolist()
        first = at - int(rows.step[at])
        last = int((rows.episode == rows.episode[at]).nonzero().max())
        assert torch.equal(seen, states[[max(first, at - 2), max(first, at - 1), at]])
        assert torch.equal(chunk, data.actions[[min(last, at + i) for i in range(4)]])


def test_diffusion_student_learns_the_task(run):
    result = json.loads((run / "result.json").read_text())
    assert result["algorithm"] == "bc" and result["student"]["successes"] >= 34
    metrics = read_metrics(run)
    assert metrics[-1]["bc/loss"] < metrics[0]["bc/loss"]


def test_resumes_bit_for_bit(small, demos, tmp_path):
    config = small(**BC, demos=(demos,), total_timesteps=1280, save_freq=640, eval_freq=1280)
    assert BehaviorCloningTrainer(config, tmp_path / "straight").run()
    saved = checkpoint.load(tmp_path / "straight" / "checkpoints" / "000000640")
    resumed = BehaviorCloningTrainer(config, tmp_path / "again", saved)
    assert resumed.step == 640 and resumed.run()
    a, b = (checkpoint.load(tmp_path / name / "checkpoints" / "last") for name in ("straight", "again"))
    assert a.step == b.step == 1280 and a.tensors.keys() == b.tensors.keys()
    assert all(torch.equal(a.tensors[key], b.tensors[key]) for key in a.tensors)
    assert (a.policy_dir / "model.safetensors").read_bytes() == (b.policy_dir / "model.safetensors").read_bytes()


def test_is_evaluated_through_samplers(run, tmp_path, capsys):
    for name in ("rti:timesteps=3", "streaming:n_action_steps=1,steps=1"):
        args = ["eval", str(run), "--sampler", name, "--episodes", "8", "--video", "False", "--out", str(tmp_path / name)]
        assert main(args) == 0
        assert json.loads((tmp_path / name / "eval.json").read_text())["successes"] >= 5
    assert main(["eval", str(run), "--sampler", "rit"]) == 2
    assert "did you mean rti" in capsys.readouterr().err
    assert main(["eval", "zero", "--task", "tabletop/Reach", "--sampler", "rti"]) == 2
    assert "zero is not a diffusion policy" in capsys.readouterr().err


def test_samplers_are_compared(run, tmp_path, capsys):
    out = tmp_path / "bench"
    args = ["bench", "diffusion", str(run), "--episodes", "6", "--samplers", "ddpm", "rti:timesteps=3", "--out", str(out)]
    assert main(args) == 0
    report = json.loads((out / "bench.json").read_text())
    full, warm = report["methods"]
    assert (
        report["task"] == "tabletop/Reach"
        and full["sampler"] == "ddpm:n_action_steps=1"
        and full["evaluations_per_action"] == 20
    )
    assert 3 <= warm["evaluations_per_action"] < 20 and warm["paired"]["n"] == 6 and warm["cpu_ms_per_action"] > 0
    assert "<svg" in (out / "figure.svg").read_text() and "rti" in (out / "report.html").read_text()
    for bad, told in (([], "which policy?"), (["zero"], "zero is not a diffusion policy")):
        assert main(["bench", "diffusion", *bad, "--task", "tabletop/Reach"]) == 2
        assert told in capsys.readouterr().err
    assert main(["bench", "env", str(run)]) == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"base": "scripted"}, "starts from random weights"),
        ({"bc": {"sampler": "euler"}}, "sampler euler needs a flow policy"),
        ({"bc": {"loss": "mse"}}, "bc.loss applies to actor-critic students"),
        ({"teacher": "scripted"}, "algorithm bc uses no teacher"),
    ],
)
def test_invalid_options_are_refused_before_training(small, demos, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        BehaviorCloningTrainer(small(**{**BC, "demos": (demos,), **changes}), tmp_path / "x")
    with pytest.raises(ConfigError, match="diffusion learns from demonstrations only: use algorithm bc"):
        OnPolicyTrainer(small(**{**BC, "algorithm": "ppo"}), tmp_path / "x")
    assert not (tmp_path / "x").exists()
