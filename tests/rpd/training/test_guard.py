"""What cannot fit is refused before anything is allocated, whatever asks for it, in one line that names it."""

import pytest
import torch

from rpd.cli.main import main
from rpd.core import memory
from rpd.datasets.collect import check_tapes
from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.navigation.env import NavigateEnv
from rpd.envs.tabletop.env import TabletopEnv
from rpd.training import guard

FREE = 2_000_000_000


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    for module in ("rpd.envs.registry", "rpd.core.memory"):
        monkeypatch.setattr(f"{module}.available", lambda device: FREE)


@pytest.fixture
def nothing_is_built(monkeypatch):
    def built(self, *args, **kwargs):
        pytest.fail("an environment was built")

    for env in (TabletopEnv, NavigateEnv):
        monkeypatch.setattr(env, "__init__", built)


def refused(capsys, *words):
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and all(word in err for word in words), err


IMAGES = {"env__obs_mode": "rgb", "env__image_size": 256, "env__cameras": "front"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"env__num_envs": 3_000_000}, ("3,000,000 environments", "simulator 3000000 environments", "lower env.num_envs")),
        ({"ppo__num_steps": 10_000_000}, ("10,000,000 steps", "rollout of 40,000,000 rows", "ppo.num_steps")),
        ({**IMAGES, "env__num_envs": 2000, "env__frame_stack": 16}, ("2,000 environments", "frame_stack")),
        ({**IMAGES, "student__state_estimator": "True", "state_estimator__replay_capacity": 1_000_000},
        ("1,000,000 replayed observations",)),
        ({"student__hidden_dims": "20000 20000"}, ("student weights, gradients and Adam",)),
        ({"algorithm": "bc", "teacher": None, "demos": "nowhere", "student__type": "diffusion", "bc__batch_size": 10_000_000},
         ("batches of 10,000,000", "batch of 20,000,000 rows", "lower bc.batch_size")),
    ],
)  # fmt: skip
def test_training(options, words, arguments, tmp_path, capsys, nothing_is_built):
    args = [word for option in arguments(**options) for word in (option.split() if "20000" in option else [option])]
    assert main([*args, "--runs-dir", str(tmp_path)]) == 2
    refused(capsys, *words)


@pytest.mark.parametrize(
    "command",
    [
        "eval zero --task tabletop/Reach --episodes 1000000 --num-envs 1000000",
        "eval zero --task navigate/Open --episodes 1000000 --num-envs 1000000",
        "data collect tabletop/Reach --policy scripted --episodes 8 --env.num-envs 1000000 --out x",
        "bench env --task tabletop/Reach --num-envs 1000000",
    ],
)
def test_other_commands(command, tmp_path, monkeypatch, capsys, nothing_is_built):
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    refused(capsys, "1,000,000 environments of", "are free")


def test_simulator_memory_is_checked():
    for task in ("tabletop/Reach", "navigate/Open"):
        with pytest.raises(ConfigError, match=rf"1,000,000 environments of {task} need about .*, and 2.0 GB are free"):
            registry.make(task, EnvConfig(num_envs=1_000_000))


def test_large_items_are_counted_exactly(small, monkeypatch):
    """A batch whose least fits, and that does not fit with the teacher's bins."""
    config = small(
        teacher="scripted:noise=0.5,bins=255", distill={"divergence": "rkl"}, ppo={"num_steps": 1_500_000, "num_minibatches": 2}
    )
    assert guard.LARGE < sum(item.bytes for item in guard.at_least(config, torch.device("cpu"))) < FREE
    with pytest.raises(ConfigError, match=r"most of it is (teacher|rollout|student)"):
        guard.check(config)


def test_small_run_passes_the_guard_without_building(small, nothing_is_built):
    guard.check(small())


def test_running_episodes_of_a_recording():
    env = registry.make("tabletop/Reach", EnvConfig(num_envs=2, obs_mode="rgb", image_size=64))
    check_tapes(env)
    env.num_envs = 100_000
    with pytest.raises(ConfigError, match="100,000 running episodes of tabletop/Reach needs"):
        check_tapes(env)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9.1 EiB"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1"),
    ],
)
def test_unplanned_out_of_memory_gives_one_line(error, arguments, tmp_path, monkeypatch, capsys):
    def fail(*args):
        raise error

    monkeypatch.setattr(memory, "rollout", fail)
    assert main([*arguments(), "--runs-dir", str(tmp_path)]) == 1
    refused(capsys, "rpd train: out of memory: ")
