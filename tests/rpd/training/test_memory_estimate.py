"""The plan of a run's memory, against tensors and processes that were measured."""

import json
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from tensordict import TensorDict

from rpd.cli import plan
from rpd.cli.main import main
from rpd.core import memory
from rpd.core.memory import Item, human
from rpd.envs import registry as envs
from rpd.envs import resources
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.students.networks.encoders import mlp
from rpd.training import memory_estimate
from rpd.training.on_policy import OnPolicyTrainer

CPU = torch.device("cpu")
IMAGES = {"obs_mode": "rgb", "image_size": 16}
SIGHT = {"state_estimator": {"num_minibatches": 2, "minibatch_size": 8, "replay_capacity": 50}}
KINDS = {
    "state": {},
    "bins": {"teacher": "scripted:noise=0.5,bins=32", "distill": {"divergence": "rkl"}},
    "samples": {"task": "tabletop/PickCube", "teacher": "scripted:modes=2", "distill": {"divergence": "nearest"}},
    "scores": {"teacher": "scripted:bins=32", "distill": {"divergence": "opd"}},
    "frames": {"algorithm": "ppo", "teacher": None, "env": {**IMAGES, "frame_stack": 3}, "student": {"augment": ("shift",)}},
    "beliefs": {"env": IMAGES, "student": {"state_estimator": True, "asymmetric_critic": True}, **SIGHT},
    "outside": {"base": "scripted:noise=0.3"},
    "vla": {"task": "tabletop/PickCube", "teacher": "zoo/tabletop", "distill": {"divergence": "rkl"}},
    "octo": {"task": "tabletop/PickCube", "teacher": "zoo/tabletop-octo", "distill": {"divergence": "rkl"}},
}


def tensors(batch: TensorDict) -> dict[str, int]:
    return {str(key): value.nbytes for key, value in batch.flatten_keys(".").items()}


@pytest.mark.parametrize("kind", KINDS)
def test_rollout_is_counted_to_the_byte(kind, small, tmp_path) -> None:
    config = small(**KINDS[kind])
    planned = memory_estimate.make(config)
    trainer = OnPolicyTrainer(config, tmp_path)
    batch, _ = trainer.collector.collect(label=trainer.objective is not None)
    assert {item.what: item.bytes for item in planned.items if item.part == "rollout"} == tensors(batch)
    counted = {(item.part, item.what): item.bytes for item in planned.items if item.certain}
    trained = [p for p in trainer.policy.parameters() if p.requires_grad]
    assert counted["student", "weights"] == sum(t.nbytes for t in trainer.policy.state_dict().values())
    assert counted["student", "gradients and Adam"] == 3 * sum(p.nbytes for p in trained)
    if trainer.state_estimator is not None:
        trainer.iterate()
        assert counted["state_estimator", "50 replayed observations"] == sum(
            tensors(trainer.state_estimator.replay._store).values()
        )
    if kind == "vla":
        assert counted["teacher", "weights"] == sum(t.nbytes for t in trainer.teacher.weights().values())
    trainer.close()


def test_activation_estimate_equals_autograd_storage() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(10, 30), torch.nn.Tanh(), torch.nn.Linear(30, 1))
    row = TensorDict({"x": torch.zeros(1, 10)}, [1])
    # The input, and the output of tanh, which both it and the next layer keep: once.
    assert memory_estimate.activations(lambda rows: network(rows["x"]).sum(), row) == 4 * (10 + 30)
    assert memory_estimate.activations(lambda rows: mlp([10, 1], 1.0)(rows["x"]).sum(), row) == 4 * 10


def test_sizes_for_people() -> None:
    sizes = (0, 999, 1000, 123_400, 999_999, 39_321_600, 15_100_000_000, 10**13, 5 * 10**16)
    assert [human(size) for size in sizes] == [
        "0 B", "999 B", "1.0 kB", "123 kB", "1000 kB", "39.3 MB", "15.1 GB", "10.0 TB", "50000 TB",
    ]  # fmt: skip


def test_insufficient_memory_gives_one_line(monkeypatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 1_000_000)
    items = [Item("rollout", "obs.image.front", 800_000, CPU), Item("rollout", "obs.state", 300_000, CPU)]
    with pytest.raises(ConfigError) as e:
        memory.check(items, "a batch", "take less")
    assert str(e.value) == (
        "a batch needs 1.1 MB on cpu, which has 1.0 MB; most of it is rollout obs.image.front (800 kB): take less"
    )
    memory.check(items, "a batch", "take less", held=100_000)
    memory.check(items[:1], "a batch", "take less")
    monkeypatch.setattr(memory, "available", lambda device: None)
    memory.check(items, "a batch", "take less")  # who cannot say does not refuse


def test_available_memory_respects_cgroup_limit(tmp_path) -> None:
    assert resources._cgroup(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert resources._cgroup(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert resources._cgroup(tmp_path) is None
    assert memory.available(CPU) > 0 and memory.resident() > 0


def test_training_refuses_a_batch_that_cannot_fit(small, tmp_path, monkeypatch) -> None:
    config = small(env=IMAGES, algorithm="ppo", teacher=None)
    row = 4 * 2 * 16 * 16 * 3 * 4  # more than 8 steps of 4 environments' images
    monkeypatch.setattr(memory, "available", lambda device: row)
    with pytest.raises(ConfigError, match=r"a batch of 8 steps from 4 environments needs .* most of it is rollout image.front"):
        OnPolicyTrainer(config, tmp_path)


def test_command_prints_a_table_and_refuses(tmp_path, capsys, monkeypatch) -> None:
    options = ["tabletop/Reach", "--teacher", "scripted:noisy", "--env.num-envs", "8"]
    assert main(["doctor", "--plan", *options]) == 0
    out = capsys.readouterr().out
    for word in ("rollout", "obs.state", "teacher.mean", "gradients and Adam", "evaluation", "process", "total"):
        assert word in out
    dotted = tmp_path / "lr-0.5"
    dotted.mkdir()
    for folder in (tmp_path, dotted):
        (folder / "config.yaml").write_text("task: tabletop/Reach\nalgorithm: ppo\nenv: {num_envs: 3}\nppo: {num_steps: 7}\n")
    for path in (tmp_path, dotted, tmp_path / "config.yaml"):  # runs, or a file
        assert main(["doctor", "--plan", str(path)]) == 0
        assert "tabletop/Reach, 3 environments, 7 steps" in capsys.readouterr().out
    huge = [*options, "--env.obs-mode", "rgb", "--env.image-size", "1024", "--ppo.num-steps", "1000000"]
    assert main(["doctor", "--plan", *huge]) == 2
    captured = capsys.readouterr()
    assert "obs.image.front" in captured.out and captured.err.count("\n") == 1
    assert captured.err.startswith("rpd doctor: tabletop/Reach, 8 environments, 1,000,000 steps needs ")
    assert main(["doctor", "--plan", "tabletop/Reach", "--teacher", "nobody"]) == 2
    assert "unknown teacher 'nobody'" in capsys.readouterr().err


def test_diffusion_policy_is_not_mistaken_for_another_student(small, tmp_path) -> None:
    with pytest.raises(ConfigError, match="its memory is not estimated"):
        memory_estimate.make(small(algorithm="bc", teacher=None, demos=(tmp_path,), student={"type": "diffusion"}))


def test_demonstrations_count(collect, small, tmp_path) -> None:
    pytest.importorskip("h5py")
    assert collect(tmp_path / "x", "tabletop/Reach", episodes=2) == 0
    items = memory_estimate.make(
        small(algorithm="bc", teacher=None, demos=(tmp_path / "x",), env={**IMAGES, "frame_stack": 2})
    ).items
    (held,) = (item for item in items if item.part == "demonstrations")
    steps = int(held.what.split()[0])
    assert steps * 16 * 16 * 3 < held.bytes < 2 * steps * 16 * 16 * 3  # single frames, and states


def test_simulator_memory_estimates() -> None:
    drawing = EnvConfig(num_envs=8, num_workers=2, obs_mode="rgb")
    assert envs.memory("maniskill/PushCube-v1", drawing) == {"2 workers": 2 * 680_000_000, "8 environments": 8_000_000}
    assert envs.memory("maniskill/PushCube-v1", drawing, "cuda") == {}  # nobody has measured
    assert envs.memory("navigate/Open", EnvConfig(num_envs=2)) == {"2 environments": 8_000}
    few, many = (envs.memory("tabletop/Reach", EnvConfig(num_envs=n, obs_mode="rgb", image_size=64)) for n in (1, 10))
    assert [*few.values()] == [6_000 + 20 * 64 * 64] and [*many.values()] == [10 * (6_000 + 20 * 64 * 64)]


MEASURE = """
import json, sys, tempfile
from pathlib import Path
from rpd.core import memory
from rpd.training import memory_estimate
from rpd.cli.options.plan import plan_config
from rpd.training.on_policy import OnPolicyTrainer
config = plan_config(sys.argv[1:])
items = memory_estimate.make(config).items
before = memory.resident()
with tempfile.TemporaryDirectory() as folder:
    trainer = OnPolicyTrainer(config, Path(folder))
    trainer.iterate()
    trainer._save()
    trainer.close()
status = Path("/proc/self/status").read_text()  # ru_maxrss would begin at what the parent process had
peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
planned = sum(item.bytes for item in items if item.part != "process")
print(json.dumps([peak - before, planned]))
"""
OPTIONS = {
    "end to end": "--env.image-size 64 --ppo.num-minibatches 2 --student.state-estimator False "
    "--student.asymmetric-critic False",
    "augmented": "--env.image-size 64 --ppo.num-minibatches 2 --student.state-estimator False "
    "--student.asymmetric-critic False "
    "--student.augment shift color --env.frame-stack 3",
    "beliefs": "--env.image-size 128 --state-estimator.replay-capacity 1600 --state-estimator.num-minibatches 2",
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", OPTIONS)
def test_measured_memory_is_near_the_estimate(kind) -> None:
    """The peak of an iteration and a checkpoint, beyond what the process had before, within a factor of 1.7."""
    args = [
        "tabletop/PickCube",
        "--algorithm",
        "ppo",
        "--env.obs-mode",
        "rgb",
        "--env.cameras",
        "front",
        "--env.num-envs",
        "64",
    ]
    args += ["--num-threads", "1", "--eval-episodes", "4", "--ppo.update-epochs", "1", *OPTIONS[kind].split()]
    done = subprocess.run([sys.executable, "-c", MEASURE, *args], capture_output=True, text=True, check=True, timeout=600)
    measured, planned = json.loads(done.stdout)
    assert planned / 1.7 < measured < planned * 1.7, (measured, planned)


def test_memory_table_lists_items(small) -> None:
    console = Console(record=True, width=120)
    plan.render(memory_estimate.make(small()), console)
    text = console.export_text()
    (minibatch,) = (line for line in text.splitlines() if "a minibatch of 16" in line)
    assert "about" in minibatch and "about" not in next(line for line in text.splitlines() if "obs.state" in line)
