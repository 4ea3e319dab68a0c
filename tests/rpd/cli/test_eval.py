import json

import imageio.v2 as imageio
import pytest
import torch

from envs.base import EnvConfig
from rpd.cli import main
from rpd.evaluation import EvalOptions, environments
from rpd.trainer import Trainer
from students.actor_critic import ActorCritic

FILES = ["episodes.jsonl", "eval.json", "grid.mp4", "report.html"]


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """A run on the state, and one on images, with settings of their own."""
    root = tmp_path_factory.mktemp("runs")
    env = {"num_envs": 4, "max_episode_steps": 10, "randomize": ("mass",)}
    Trainer(small(total_steps=32, env=env), root / "state").run()
    env |= {"obs": "image", "cameras": ("front", "wrist"), "image_size": 16}
    Trainer(small(total_steps=32, env=env), root / "image").run()
    return root


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def summary(folder):
    return json.loads((folder / "eval.json").read_text())


@pytest.mark.parametrize("policy", ["zero", "random", "teacher:scripted"])
def test_without_a_run(policy, tmp_path, capsys):
    assert main(["eval", policy, "--task", "tabletop/Reach", "--episodes", "5", "--seed", "7"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == FILES
    said = summary(folder)
    assert (said["n"], said["first_seed"], said["policy"]) == (5, 7, policy.removeprefix("teacher:"))
    assert said["successes"] == 5 if policy.startswith("teacher") else said["successes"] <= 2
    assert len((folder / "episodes.jsonl").read_text().splitlines()) == 5
    assert len(imageio.mimread(folder / "grid.mp4")) > 2
    assert f"results: {folder.relative_to(tmp_path)}" in capsys.readouterr().out


def test_a_run_in_its_own_environment(run, capsys):
    assert main(["eval", str(run / "state"), "--episodes", "3"]) == 0
    (folder,) = (run / "state" / "eval").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == FILES
    assert summary(folder)["mean_length"] <= 10  # the run's own limit, not the task's
    assert "0/3" in capsys.readouterr().out


def test_a_checkpoint_and_a_bare_policy(run, tmp_path):
    checkpoint = run / "state" / "checkpoints" / "last"
    assert main(["eval", str(checkpoint), "--episodes", "3", "--out", "a", "--video", "False"]) == 0
    ActorCritic.from_pretrained(checkpoint / "policy").save_pretrained(tmp_path / "bare")
    assert main(["eval", "bare", "--episodes", "3", "--out", "b", "--video", "False"]) == 0
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [f for f in FILES if f != "grid.mp4"]
    a, b = summary(tmp_path / "a"), summary(tmp_path / "b")
    assert a["task"] == b["task"] == "tabletop/Reach" and a["mean_length"] == 10 and b["mean_length"] == 50


def test_two_are_paired_by_seed(run, tmp_path, capsys):
    assert main(["eval", "teacher:scripted", str(run / "state"), "--episodes", "4", "--out", "both"]) == 0
    a, b = sorted((tmp_path / "both").iterdir())
    assert a.name == "1-teacher-scripted" and sorted(p.name for p in a.iterdir()) == [*FILES, "side_by_side.mp4"]
    seeds = [[json.loads(line)["seed"] for line in (f / "episodes.jsonl").read_text().splitlines()] for f in (a, b)]
    assert seeds[0] == seeds[1]
    out = capsys.readouterr().out
    assert f"{run / 'state'} - teacher:scripted: " in out and "n=4" in out


def test_a_student_of_images_beside_one_of_the_state(run, tmp_path, capsys):
    """The same episodes, each policy seeing what it was trained on."""
    assert main(["eval", str(run / "image"), str(run / "state"), "--episodes", "2", "--video", "False"]) == 0
    assert "n=2" in capsys.readouterr().out
    image, state = str(run / "image"), str(run / "state")
    task, (a, b, c) = environments(EvalOptions(policy=image, episodes=2), [image, state, "zero"])
    assert task == "tabletop/Reach"
    assert (a.obs, a.cameras, a.image_size) == ("image", ("front", "wrist"), 16) and c == a
    assert b == a.model_copy(update={"obs": "state", "cameras": None, "image_size": None})
    assert (a.num_envs, a.max_episode_steps, a.randomize) == (2, 10, ("mass",))


def test_options_come_first(run):
    state = str(run / "state")
    options = EvalOptions(policy=state, task="tabletop/PickCube", robot="xarm6", randomize=(), episodes=500)
    task, (config,) = environments(options, [state])
    assert task == "tabletop/PickCube"
    assert config == EnvConfig(robot="xarm6", num_envs=128, max_episode_steps=10)


def test_two_checkpoints_of_one_run_do_not_overwrite_each_other(small, tmp_path):
    Trainer(small(total_steps=64), tmp_path / "x").run()
    paths = [str(tmp_path / "x" / "checkpoints" / step) for step in ("000000032", "000000064")]
    assert main(["eval", *paths, "--episodes", "2", "--video", "False"]) == 0
    folders = sorted((tmp_path / "x" / "eval").iterdir())
    assert len(folders) == 2 and [summary(f)["policy"] for f in folders] == paths


def test_a_damaged_policy_is_named(run, tmp_path, capsys):
    policy = ActorCritic.from_pretrained(run / "state" / "checkpoints" / "last" / "policy")
    policy.save_pretrained(tmp_path / "bad")
    model = tmp_path / "bad" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    assert main(["eval", "bad"]) == 2
    assert "bad/model.safetensors: truncated or altered" in capsys.readouterr().err


def test_nan_from_a_policy_stops_it(run, tmp_path, capsys):
    policy = ActorCritic.from_pretrained(run / "state" / "checkpoints" / "last" / "policy")
    with torch.no_grad():
        next(policy.actor.parameters()).fill_(float("nan"))
    policy.save_pretrained(tmp_path / "bad")
    assert main(["eval", "bad", "--episodes", "2", "--video", "False"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("rpd eval: non-finite values from the policy bad: action of environment") and err.count("\n") == 1
