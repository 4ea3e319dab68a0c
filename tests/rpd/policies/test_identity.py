"""Policies, teachers and bases are told apart by their files, wherever results are kept, merged, compared or gone on with."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rpd.bench.serve import Still, _spec
from rpd.cli.main import main
from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.evaluation.suites import SUITES, Suite
from rpd.policies.identity import identity, sources
from rpd.reporting import curves
from rpd.serve.service import PolicyService
from rpd.students import identity as files
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import StudentConfig
from rpd.students.diffusion.config import DiffusionConfig
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.students.identity import file_identity, folder_identity
from rpd.teachers import registry as teachers
from rpd.training.on_policy import OnPolicyTrainer

REACH = "tabletop/Reach"


def policy(path, seed=0):
    env = registry.make(REACH, EnvConfig(num_envs=1))
    torch.manual_seed(seed)
    ActorCritic(env.spec, StudentConfig(hidden_dims=(8,))).save_pretrained(Path(path))


def diffusion_policy(path, seed=0):
    """A base that is asked from outside, as a teacher."""
    env = registry.make(REACH, EnvConfig(num_envs=1))
    torch.manual_seed(seed)
    made = DiffusionPolicy(env.spec, StudentConfig(type="diffusion"), DiffusionConfig(width=8, horizon=4))
    made.prepare(torch.randn(8, len(env.spec.state_names)), torch.rand(8, 7) * 2 - 1)
    made.save_pretrained(Path(path))


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_policy_is_its_files_and_not_its_name():
    policy("a")
    policy("other", seed=1)
    shutil.copytree("a", "b")
    assert identity("a") == identity("b")
    assert identity("a") == identity("b") != identity("other")
    assert identity("a") != identity("other") and identity("zero") != identity("random")
    assert identity("scripted:noise=0.5") != identity("scripted:noise=0.4")
    assert teachers.identity("zoo/tabletop") != teachers.identity("zoo/tabletop-octo")
    assert teachers.identity("zoo/tabletop") == teachers.identity(f"openvla:{Path(teachers.zoo.__file__).parent / 'tabletop'}")


@pytest.mark.parametrize("change", ["content", "new file", "name"])
def test_any_file_of_a_checkpoint_counts(change, tmp_path):
    folder = tmp_path / "vla"
    (folder / "step").mkdir(parents=True)
    (folder / "step" / "weights").write_text("1")
    (folder / ".cache").mkdir()
    before = folder_identity(folder)
    (folder / ".cache" / "downloaded").write_text("hidden files do not")
    assert folder_identity(folder) == before
    if change == "content":
        (folder / "step" / "weights").write_text("2")
    elif change == "new file":
        (folder / "config.json").write_text("{}")
    else:
        (folder / "step").rename(folder / "other")
    assert folder_identity(folder) != before


def test_large_file_is_read_once_and_again_when_it_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "LARGE", 4)
    monkeypatch.setattr(files, "SETTLED", -1e9)
    read, real = [], files.file_digest
    monkeypatch.setattr(files, "file_digest", lambda path: read.append(path) or real(path))
    weights = tmp_path / "weights"
    weights.write_text("first")
    first = file_identity(weights)
    assert file_identity(weights) == first and len(read) == 1
    times = weights.stat()
    weights.write_text("other")  # as long, and as old
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_identity(weights) != first and len(read) == 2
    monkeypatch.setattr(files, "SETTLED", 1e9)  # written a moment ago: not kept
    weights.write_text("third")
    assert file_identity(weights) == file_identity(weights) != first and len(read) == 4


def test_suite_does_not_count_episodes_of_other_weights(monkeypatch, capsys):
    monkeypatch.setitem(SUITES, "small", Suite("small", (REACH,)))
    suite = ["--suite", "small", "--episodes", "2", "--num-envs", "2", "--video", "False", "--out", "e"]
    policy("x")
    assert main(["eval", "x", *suite]) == 0
    shutil.copytree("x", "same")
    assert main(["eval", "same", *suite]) == 0  # by another name
    assert json.loads(Path("e/eval.json").read_text())["identity"] == identity("x")
    shutil.rmtree("x")
    policy("x", seed=1)
    capsys.readouterr()
    assert main(["eval", "x", *suite]) == 2
    said = capsys.readouterr().err
    assert "--out e holds another evaluation: its policy is x as it was (" in said and said.count("\n") == 1


def test_run_goes_on_with_the_teacher_that_it_began_with(arguments, capsys):
    policy("t")
    run = [*arguments(teacher="t", total_timesteps=64), "--name", "r"]
    assert main(run) == 0
    result = json.loads(Path("runs/r/result.json").read_text())
    assert result["sources"] == sources("t") == json.loads(Path("runs/r/env.json").read_text())["sources"]
    Path("runs/r/result.json").unlink()
    shutil.rmtree("t")
    policy("t", seed=1)
    capsys.readouterr()
    assert main(["train", "--resume", "runs/r"]) == 2
    said = capsys.readouterr().err
    assert "teacher t has changed since runs/r began (digest " in said and said.count("\n") == 1


def test_residual_requires_its_base_teacher(small, tmp_path, capsys):
    pytest.importorskip("diffusers")
    diffusion_policy("t")
    assert OnPolicyTrainer(small(base="t", algorithm="ppo", teacher=None, total_timesteps=32), tmp_path / "r").run()
    assert main(["eval", "r", "--episodes", "2", "--video", "False"]) == 0
    before = identity("r")
    shutil.rmtree("t")
    diffusion_policy("t", seed=1)
    assert identity("r") != before
    capsys.readouterr()
    Path("r/result.json").unlink()
    for words in (["eval", "r", "--episodes", "2"], ["train", "--resume", "r"]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "the policy corrects teacher t with files of digest " in said and said.count("\n") == 1


def test_demonstrations_are_of_one_policy(capsys):
    pytest.importorskip("h5py")
    policy("p")
    words = [
        "--policy",
        "p",
        "--keep",
        "all",
        "--per-file",
        "2",
        "--env.num-envs",
        "2",
        "--env.obs-mode",
        "state",
        "--out",
        "d",
    ]
    assert main(["data", "collect", REACH, "--episodes", "2", *words]) == 0
    shutil.rmtree("p")
    policy("p", seed=1)
    capsys.readouterr()
    assert main(["data", "collect", "--resume", "d", "--episodes", "4"]) == 2
    assert "actor p has changed since d began (digest " in capsys.readouterr().err


def test_sweep_is_of_one_base(tmp_path, capsys):
    settings = {
        "env": {"num_envs": 4, "max_episode_steps": 10},
        "ppo": {"num_steps": 8},
        "total_timesteps": 32,
        "eval_episodes": 2,
    }
    sweep = {
        "out": "out",
        "tasks": [REACH],
        "robots": ["panda"],
        "base": "b",
        "settings": settings | {"final_eval_episodes": 2},
    }
    Path("s.yaml").write_text(json.dumps(sweep))
    policy("b")
    assert main(["sweep", "s.yaml", "--jobs", "1"]) == 0
    shutil.rmtree("b")
    policy("b", seed=1)
    capsys.readouterr()
    assert main(["sweep", "s.yaml"]) == 2
    assert "base b has changed since out/Reach-panda-seed0 began (digest " in capsys.readouterr().err


def test_distillation_is_of_the_specialists_that_it_began_with(small, tmp_path, capsys):
    assert OnPolicyTrainer(small(total_timesteps=32), tmp_path / "s").run()
    few = "--episodes 8 --train-steps 4 --dagger-iterations 1 --round-episodes 4 --round-steps 4 --num-envs 4 --eval-episodes 2"
    words = [
        "generalist",
        "s",
        *few.split(),
        "--final-eval-episodes",
        "2",
        "--failed-episode-weight",
        "1",
        "--generalist.embodiment",
        "one-hot",
        "--name",
        "g",
    ]
    assert main(words) == 0
    Path("runs/g/result.json").unlink()
    policy(next(Path("s/checkpoints").glob("0*")) / "policy", seed=1)
    capsys.readouterr()
    assert main(["generalist", "--resume", "runs/g"]) == 2
    said = capsys.readouterr().err
    assert "Reach-panda s has changed since runs/g began (digest " in said and said.count("\n") == 1
    shutil.rmtree("runs/g/checkpoints")  # killed before the first: what its specialist said is there
    assert main(["generalist", "--resume", "runs/g"]) == 2
    assert "specialist s has changed since " in capsys.readouterr().err


def test_seeds_of_one_teacher_alone_are_one_curve():
    def summary(seed, digest):
        return {"algorithm": "rpd", "teacher": "openvla:vla", "seed": seed, "sources": {"teacher": digest}}

    assert curves.labels([summary(0, "a" * 64), summary(1, "a" * 64)]) == ["RPD", "RPD"]
    assert curves.labels([summary(0, "a" * 64), summary(1, "b" * 64)]) == [
        "RPD · openvla:vla (aaaaaaaaaaaa)", "RPD · openvla:vla (bbbbbbbbbbbb)",
    ]  # fmt: skip


def test_server_without_identity_is_named(tmp_path, monkeypatch, capsys, small):
    monkeypatch.setattr(teachers, "identity", lambda name: None)
    config = small(total_timesteps=64)
    assert OnPolicyTrainer(config.model_copy(update={"total_timesteps": 32}), tmp_path / "r").run()
    Path("r/result.json").unlink()
    assert main(["train", "--resume", "r"]) == 0
    assert "teacher scripted:noise=0.5: its server reports no identity: cannot check" in capsys.readouterr().out


def test_server_metadata_contains_identity(monkeypatch):
    from rpd.teachers.adapters import remote

    service = PolicyService(Still(7), _spec(8), "still", identity="d" * 64)
    client = SimpleNamespace(metadata=service.metadata(), close=lambda: None)
    monkeypatch.setattr(remote, "_connect", lambda argument, options: ([client], None))
    here = teachers.identity("remote:ws://127.0.0.1:1")
    assert here == teachers.identity("remote:ws://127.0.0.1:2,timeout=3") is not None
    client.metadata = {}
    assert teachers.identity("remote:ws://127.0.0.1:1") is None


def test_file_that_is_missing_is_one_line():
    with pytest.raises(ConfigError, match=r"sb3:none\.zip: no such file"):
        identity("sb3:none.zip")
