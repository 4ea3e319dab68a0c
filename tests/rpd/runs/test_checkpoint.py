import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rpd.cli.main import main
from rpd.core.files import write_json, write_text
from rpd.envs.errors import ConfigError, RunFault
from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec
from rpd.runs import checkpoint
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import StudentConfig
from rpd.students.io.files import file_digest
from rpd.training.on_policy import OnPolicyTrainer


@pytest.fixture
def policy():
    torch.manual_seed(0)
    spec = EnvSpec(
        task="tabletop/Reach",
        embodiment=Embodiment(name="panda", num_joints=7, descriptor={}),
        observations={"state": ObsSpec(shape=(3,), dtype="float32")},
        state_names=("a", "b", "c"),
        action=ActionSpec(names=("x",), units=("m",), scale=(0.1,), discrete=(False,)),
        control_hz=20.0,
        max_episode_steps=50,
        reward="dense",
    )
    return ActorCritic(spec, StudentConfig(hidden_dims=(8,)))


def steps(run):
    return sorted(p.name for p in (run / "checkpoints").iterdir())


def test_round_trip(policy, tmp_path):
    storage = torch.arange(6, dtype=torch.float64)
    tensors = {"a": storage, "b.view": storage[::2], "flag": torch.tensor(True), "empty": torch.zeros(0, 3)}
    meta = {"queries": 12, "nested": {"x": [0.1, None]}}
    path = checkpoint.save(tmp_path, 12_800, policy, tensors, meta)
    assert path == tmp_path / "checkpoints" / "000012800"
    for opened in (path, tmp_path / "checkpoints" / "last"):
        loaded = checkpoint.load(opened)
        assert loaded.step == 12_800 and loaded.meta == meta and loaded.tensors.keys() == tensors.keys()
        assert all(torch.equal(loaded.tensors[k], v) for k, v in tensors.items())
    restored = ActorCritic.from_pretrained(loaded.policy_dir).state_dict()
    assert all(torch.equal(restored[k], v) for k, v in policy.state_dict().items())
    assert os.readlink(tmp_path / "checkpoints" / "last") == "000012800"


def test_moved_run_still_works(policy, tmp_path):
    checkpoint.save(tmp_path / "a", 1, policy, {}, {})
    (tmp_path / "a").rename(tmp_path / "b")
    assert checkpoint.load(tmp_path / "b" / "checkpoints" / "last").step == 1


def test_keeps_the_newest(policy, tmp_path):
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path, step, policy, {}, {}, keep=2)
    assert steps(tmp_path) == ["000000003", "000000004", "last"]


def test_later_steps_are_abandoned(policy, tmp_path):
    for step in (10, 20):
        checkpoint.save(tmp_path, step, policy, {}, {}, keep=1)
    checkpoint.save(tmp_path, 15, policy, {}, {}, keep=1)
    assert steps(tmp_path) == ["000000015", "last"]


def test_same_step_is_replaced(policy, tmp_path):
    for value in (1, 2):
        path = checkpoint.save(tmp_path, 10, policy, {}, {"value": value})
    assert checkpoint.load(path).meta == {"value": 2}
    assert steps(tmp_path) == ["000000010", "last"]


@pytest.mark.parametrize(
    "name",
    [
        checkpoint.MANIFEST,
        "policy/config.json",
        "policy/model.safetensors",
        checkpoint.TENSORS,
        checkpoint.STATE,
        checkpoint.RANK_STATE.format(0),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "flip", "missing"])
def test_damage_is_named_and_passed_over(policy, tmp_path, name, damage):
    for step in (1, 2):
        path = checkpoint.save(tmp_path, step, policy, {"t": torch.ones(3)}, {})
    file = path / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data if damage == "flip" else data[:-3])
    with pytest.raises(checkpoint.CorruptCheckpoint) as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)
    if name != checkpoint.MANIFEST or damage != "flip":  # a digest that changed shows as its file's mismatch
        assert name in str(caught.value)
    sound, problems = checkpoint.latest_valid_checkpoint(tmp_path)
    assert sound.step == 1 and problems == [str(caught.value)]


def test_none_sound(policy, tmp_path):
    with pytest.raises(ConfigError, match="no sound checkpoint"):
        checkpoint.latest_valid_checkpoint(tmp_path)
    path = checkpoint.save(tmp_path, 1, policy, {}, {})
    (path / checkpoint.STATE).unlink()
    with pytest.raises(ConfigError, match=r"state\.json: cannot be read"):
        checkpoint.latest_valid_checkpoint(tmp_path)


@pytest.mark.parametrize("writes", range(5))
def test_full_disk_leaves_the_last_valid_checkpoint(policy, tmp_path, monkeypatch, writes):
    checkpoint.save(tmp_path, 1, policy, {}, {}, keep=1)
    real, count = os.fsync, 0

    def full(descriptor):
        nonlocal count
        count += 1
        if count > 2 * writes:  # each file: itself, then its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFault, match="No space left on device"):
        checkpoint.save(tmp_path, 2, policy, {"t": torch.ones(3)}, {}, keep=1)
    monkeypatch.undo()
    assert steps(tmp_path) == ["000000001", "last"]
    assert checkpoint.latest_valid_checkpoint(tmp_path)[0].step == 1


def test_killed_while_saving(policy, tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, policy, {}, {})
    monkeypatch.setattr(shutil, "rmtree", lambda *a, **k: None)  # a killed process cleans nothing up
    monkeypatch.setattr(checkpoint, "write_json", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 2, policy, {}, {})
    monkeypatch.undo()
    assert ".tmp-000000002" in steps(tmp_path)
    assert checkpoint.latest_valid_checkpoint(tmp_path)[0].step == 1
    checkpoint.save(tmp_path, 2, policy, {}, {})
    assert steps(tmp_path) == ["000000001", "000000002", "last"]


def test_resolve_policy(policy, tmp_path):
    path = checkpoint.save(tmp_path / "run", 5, policy, {}, {})
    for given in (tmp_path / "run", path, path.parent / "last", path / "policy"):
        ActorCritic.from_pretrained(checkpoint.resolve_policy(given))
    (tmp_path / "file").touch()
    for wrong, message in (("nowhere", "does not exist"), ("file", "is not a folder"), ("", "expected a run")):
        with pytest.raises(ConfigError, match=message):
            checkpoint.resolve_policy(tmp_path / wrong)


def train(policy, optimizer, generator, n):
    for _ in range(n):
        obs = {"state": torch.randn(16, 3, generator=generator) + torch.rand(1) + np.random.rand()}
        dist, value = policy(obs)
        loss = value.square().mean() - dist.log_prob(dist.sample(generator)).mean() * 0.1
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_training_continues_bit_identically(policy, tmp_path):
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2, eps=1e-5)
    generator = torch.Generator().manual_seed(1)
    np.random.seed(0)
    train(policy, optimizer, generator, 5)
    optimizer.param_groups[0]["lr"] = 1 / 300
    tensors = {f"opt.{k}": v for k, v in checkpoint.optimizer_tensors(optimizer).items()}
    tensors |= {f"rng.{k}": v for k, v in checkpoint.rng_tensors(generator).items()}
    checkpoint.save(tmp_path, 5, policy, tensors, {})
    train(policy, optimizer, generator, 5)

    torch.manual_seed(99)
    np.random.seed(99)
    saved, _ = checkpoint.latest_valid_checkpoint(tmp_path)
    resumed = ActorCritic.from_pretrained(saved.policy_dir)
    other = torch.optim.Adam(resumed.parameters(), lr=1 / 300, eps=1e-5)
    fresh = torch.Generator()
    groups = {p: {k.removeprefix(p): v for k, v in saved.tensors.items() if k.startswith(p)} for p in ("opt.", "rng.")}
    checkpoint.load_optimizer(other, groups["opt."])
    checkpoint.load_rng(groups["rng."], fresh)
    train(resumed, other, fresh, 5)

    assert other.param_groups[0]["lr"] == 1 / 300, "the configuration's, and not the checkpoint's"
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_numpy_gaussian_half_is_kept():
    np.random.seed(0)
    np.random.randn()  # the generator makes two at a time and keeps one
    saved = checkpoint.rng_tensors()
    expected = np.random.randn(3)
    checkpoint.load_rng(saved)
    assert (np.random.randn(3) == expected).all()
    assert all(t.dtype == torch.uint8 for t in saved.values())


def test_random_state_of_another_kind_of_device():
    saved = checkpoint.rng_tensors(torch.Generator())
    saved["generator.0"] = torch.arange(16, dtype=torch.uint8)  # as a GPU's generator has it: a seed and an offset
    drawn = []
    for _ in range(2):
        checkpoint.load_rng(saved, generator := torch.Generator())
        drawn.append(torch.rand(3, generator=generator))
    assert torch.equal(*drawn)


def test_optimizer_of_another_network(policy):
    optimizer = torch.optim.Adam(policy.parameters())
    train(policy, optimizer, torch.Generator(), 1)
    tensors = checkpoint.optimizer_tensors(optimizer)
    with pytest.raises(ConfigError, match="does not fit the policy"):
        checkpoint.load_optimizer(torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]), tensors)


def test_atomic_text(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        write_text(path, "other")
    assert path.read_text() == '{\n  "a": 1\n}\n' and os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("found", [None, 1, 99])
def test_another_format_is_one_line_before_anything_is_built(found, small, tmp_path, monkeypatch, capsys):
    """A run of an earlier version of rpd, which wrote no number, and one of a later."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "FORMAT", found)
    assert OnPolicyTrainer(small(total_timesteps=32), Path("x")).run()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    last = Path("x/checkpoints/last")
    if found is None:
        rewrite(last, lambda state: state.pop("format"))
    for words in (["train"], ["generalist"], ["teacher", "finetune"]):
        assert main([*words, "--resume", "x"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "x was trained by another version of rpd (rpd " in said
        assert f"format {found or 1}, this version resumes format {checkpoint.FORMAT}: resume it with that version" in said
    with pytest.raises(checkpoint.CorruptCheckpoint, match=f"format {found or 1}, and this version of rpd reads"):
        checkpoint.load(last)


def rewrite(path, change):
    """Alter a checkpoint's state, and seal it again."""
    state = json.loads((path / checkpoint.STATE).read_text())
    change(state)
    (path / checkpoint.STATE).write_text(json.dumps(state))
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    manifest["files"][checkpoint.STATE] = file_digest(path / checkpoint.STATE)
    (path / checkpoint.MANIFEST).write_text(json.dumps(manifest))


def test_checkpoint_format_matches_its_keys(small, tmp_path):
    """A change of this list raises `checkpoint.FORMAT`."""
    OnPolicyTrainer(small(total_timesteps=32, algorithm="rpd", teacher="scripted"), tmp_path / "x").run()
    assert checkpoint.FORMAT == 5
    assert sorted(checkpoint.load(tmp_path / "x" / "checkpoints" / "last").meta) == [
        "base_result", "config", "episodes", "objective", "queries", "sources", "success", "teacher_result",
        "teacher_success", "wall",
    ]  # fmt: skip
