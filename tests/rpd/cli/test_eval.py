import json
from pathlib import Path

import imageio.v2 as imageio
import pytest
import torch

from rpd.cli.eval import EvalConfig
from rpd.cli.main import main
from rpd.envs.config import EnvConfig
from rpd.evaluation.environments import environments
from rpd.students.actor_critic import ActorCritic
from rpd.training.on_policy import OnPolicyTrainer

FILES = ["episodes.jsonl", "eval.json", "grid.mp4", "report.html"]


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """A run on the state, and one on images, with settings of their own."""
    root = tmp_path_factory.mktemp("runs")
    env = {"num_envs": 4, "max_episode_steps": 10, "domain_randomization": ("mass",)}
    OnPolicyTrainer(small(total_timesteps=32, env=env), root / "state").run()
    env |= {"obs_mode": "rgb", "cameras": ("front", "wrist"), "image_size": 16}
    OnPolicyTrainer(small(total_timesteps=32, env=env), root / "image").run()
    return root


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def summary(folder):
    return json.loads((folder / "eval.json").read_text())


@pytest.mark.parametrize("policy", ["zero", "random", "scripted"])
def test_without_a_run(policy, tmp_path, capsys):
    assert main(["eval", policy, "--task", "tabletop/Reach", "--episodes", "5", "--seed", "7"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == FILES
    said = summary(folder)
    assert (said["n"], said["first_seed"], said["policy"]) == (5, 7, policy)
    assert said["successes"] == 5 if policy == "scripted" else said["successes"] <= 2
    assert len((folder / "episodes.jsonl").read_text().splitlines()) == 5
    assert len(imageio.mimread(folder / "grid.mp4")) > 2
    assert f"results: {folder.relative_to(tmp_path)}" in capsys.readouterr().out


def test_run_in_its_own_environment(run, capsys):
    assert main(["eval", str(run / "state"), "--episodes", "3"]) == 0
    (folder,) = (run / "state" / "eval").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == FILES
    assert summary(folder)["mean_length"] <= 10  # the run's own limit, not the task's
    assert "0/3" in capsys.readouterr().out


def test_checkpoint_and_a_bare_policy(run, tmp_path):
    checkpoint = run / "state" / "checkpoints" / "last"
    assert main(["eval", str(checkpoint), "--episodes", "3", "--out", "a", "--video", "False"]) == 0
    ActorCritic.from_pretrained(checkpoint / "policy").save_pretrained(tmp_path / "bare")
    assert main(["eval", "bare", "--episodes", "3", "--out", "b", "--video", "False"]) == 0
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [f for f in FILES if f != "grid.mp4"]
    a, b = summary(tmp_path / "a"), summary(tmp_path / "b")
    assert a["task"] == b["task"] == "tabletop/Reach" and a["mean_length"] == b["mean_length"] == 10
    assert a["env"] == b["env"] and a["env"]["domain_randomization"] == ["mass"]


def test_two_are_paired_by_seed(run, tmp_path, capsys):
    results = ["--results", f"file://{Path.cwd()}/copies"]
    assert main(["eval", "scripted", str(run / "state"), "--episodes", "4", "--out", "both", *results]) == 0
    assert sorted(path.name for path in Path("copies/both").iterdir()) == sorted(path.name for path in Path("both").iterdir())
    assert all(json.loads((path / "manifest.json").read_text())["complete"] for path in Path("copies/both").iterdir())
    a, b = sorted((tmp_path / "both").iterdir())
    files = [*FILES, "side_by_side.json", "side_by_side.mp4"]
    assert a.name == "1-scripted" and sorted(p.name for p in a.iterdir()) == files
    seeds = [[json.loads(line)["seed"] for line in (f / "episodes.jsonl").read_text().splitlines()] for f in (a, b)]
    assert seeds[0] == seeds[1]
    out = capsys.readouterr().out
    assert f"{run / 'state'} - scripted: " in out and "n=4" in out


def test_image_and_state_students_compared_on_same_episodes(run, tmp_path, capsys):
    """The same episodes, each policy seeing what it was trained on."""
    assert main(["eval", str(run / "image"), str(run / "state"), "--episodes", "2", "--video", "False"]) == 0
    assert "n=2" in capsys.readouterr().out
    image, state = str(run / "image"), str(run / "state")
    task, (a, b, c) = environments(EvalConfig(policy=image, episodes=2), [image, state, "zero"])
    assert task == "tabletop/Reach"
    assert (a.obs_mode, a.cameras, a.image_size) == ("rgb", ("front", "wrist"), 16) and c == a
    assert b == a.model_copy(update={"obs_mode": "state", "cameras": None, "image_size": None})
    assert (a.num_envs, a.max_episode_steps, a.domain_randomization) == (2, 10, ("mass",))


def test_options_come_first(run):
    state = str(run / "state")
    options = EvalConfig(policy=state, task="tabletop/PickCube", robot="xarm6", domain_randomization=(), episodes=500)
    task, (config,) = environments(options, [state])
    assert task == "tabletop/PickCube"
    assert config == EnvConfig(robot="xarm6", num_envs=128, reward="dense")  # PickCube's own episode length
    options = options.model_copy(update={"max_episode_steps": 10, "reward": "sparse"})
    _, (config,) = environments(options, [state])
    assert (config.max_episode_steps, config.reward) == (10, "sparse")


def test_two_checkpoints_of_one_run_do_not_overwrite_each_other(small, tmp_path):
    OnPolicyTrainer(small(total_timesteps=64), tmp_path / "x").run()
    paths = [str(tmp_path / "x" / "checkpoints" / step) for step in ("000000032", "000000064")]
    assert main(["eval", *paths, "--episodes", "2", "--video", "False"]) == 0
    folders = sorted((tmp_path / "x" / "eval").iterdir())
    assert len(folders) == 2 and [summary(f)["policy"] for f in folders] == paths


def test_damaged_policy_is_named(run, tmp_path, capsys):
    policy = ActorCritic.from_pretrained(run / "state" / "checkpoints" / "last" / "policy")
    policy.save_pretrained(tmp_path / "bad")
    model = tmp_path / "bad" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    assert main(["eval", "bad"]) == 2
    assert "bad/model.safetensors: truncated or altered" in capsys.readouterr().err


def test_nan_from_policy_stops_evaluation(run, tmp_path, capsys):
    policy = ActorCritic.from_pretrained(run / "state" / "checkpoints" / "last" / "policy")
    with torch.no_grad():
        next(policy.actor.parameters()).fill_(float("nan"))
    policy.save_pretrained(tmp_path / "bad")
    assert main(["eval", "bad", "--episodes", "2", "--video", "False"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("rpd eval: non-finite values from the policy bad: action of environment") and err.count("\n") == 1
