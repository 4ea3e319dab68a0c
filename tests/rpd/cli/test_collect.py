"""What `rpd data collect` leaves: the same files whether or not it was stopped, and something readable whenever it was."""

import os
import signal

import numpy as np
import pytest
import torch

from rpd.cli.main import main
from rpd.datasets.dataset_dir import read_index
from rpd.datasets.reader import open_demos
from rpd.datasets.recorder import play_round
from rpd.datasets.writer import RoundWriter
from rpd.envs.config import EnvConfig
from rpd.envs.registry import make
from rpd.policies.builtin import ZeroPolicy
from rpd.teachers.scripted import ScriptedTeacher
from rpd.teachers.scripted.expert_errors import ExpertErrors

pytest.importorskip("h5py")


def files(folder):
    """Every trajectory file and its JSON, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("trajectory.*"))}


def environment(task="tabletop/Reach", **options):
    return make(task, EnvConfig(num_envs=2, max_episode_steps=10, **options), "cpu", 1)


def test_demonstration_folder_contents(recorded):
    demos = open_demos(recorded)
    assert demos.tasks == ["tabletop/Reach", "tabletop/PushCube"] and len(demos) == 12
    assert demos.keys == ["action", "label", "reward", "terminated", "truncated", "success", "image.front", "state"]
    assert [r.episodes for r in read_index(recorded)["rounds"]["tabletop/Reach"]] == [4, 2]
    assert demos.episodes[0].seed == 5_000_000 and demos.episodes[1].seed == 5_000_001
    for episode in demos:
        length = episode.info.length
        assert episode.obs["image.front"].shape == (length + 1, 16, 16, 3)
        assert episode.obs["state"].shape == (length + 1, len(demos.state_names))
        assert episode.steps["action"].shape == episode.steps["label"].shape == (length, 7)
        assert episode.info.success and episode.steps["success"].tolist() == [False] * (length - 1) + [True]
        assert (np.abs(episode.steps["action"]) <= 1).all()
        moved = episode.steps["action"] - episode.steps["label"]
        assert moved[:, :6].any() and not moved[:, 6].any()  # noise, but not on the gripper


def test_noise_can_leave_turns_alone():
    env = make("tabletop/Reach", EnvConfig(num_envs=2))
    for noise_turn, turned in ((None, True), (0.0, False)):
        for take in play_round(env, ZeroPolicy(7), 0, 1, noise=0.1, noise_turn=noise_turn):
            moved = take.episode.steps["action"] - take.episode.steps["label"]
            assert moved[:, :3].any() and moved[:, 3:6].any() == turned


def test_labels_are_the_experts_answers(recorded, collect, tmp_path):
    """Asked again about a recorded scene, the expert gives the recorded label."""
    assert collect(tmp_path / "x", "tabletop/PushCube", episodes=3, privileged=True) == 0
    demos = open_demos(tmp_path / "x")
    expert = ScriptedTeacher(demos.specs["tabletop/PushCube"], ExpertErrors())
    for episode in demos:
        scene = torch.from_numpy(episode.obs["privileged"][:-1])
        torch.testing.assert_close(expert.act({"privileged": scene}, []), torch.from_numpy(episode.steps["label"]))


def test_round_trip_is_exact(tmp_path):
    env = environment(obs_mode="rgb", image_size=16)
    policy = ScriptedTeacher(env.spec, ExpertErrors())
    with RoundWriter(tmp_path, 0, env.spec, EnvConfig(), "scripted") as file:
        takes = sorted(play_round(env, policy, 3, 2, noise=0.1, privileged=True), key=lambda take: take[:2])
        for take in reversed(takes):
            file.add(take)
        result = file.close(first_id=5, limit=3, attempts=4, successes=4, cut=True)
    demos = open_demos(tmp_path / result.file)
    assert len(demos) == result.episodes == 3 and demos.specs == {"tabletop/Reach": env.spec}
    for take, read in zip(takes, demos, strict=False):
        assert take.episode.info == read.info
        for ours, theirs in ((take.episode.obs, read.obs), (take.episode.steps, read.steps)):
            assert set(ours) == set(theirs)
            assert all(ours[k].dtype == theirs[k].dtype and np.array_equal(ours[k], theirs[k]) for k in ours)
    assert os.listdir(tmp_path) and not list(tmp_path.glob(".*"))


def test_round_is_a_function_of_its_seed():
    env = environment()
    policy = ScriptedTeacher(env.spec, ExpertErrors(noise=0.2))
    one, two, other = (list(play_round(env, policy, seed, 2, noise=0.1)) for seed in (1, 1, 50))
    assert [t[:2] for t in one] == [t[:2] for t in two] and sorted(t[:2] for t in one) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(np.array_equal(a.episode.steps["action"], b.episode.steps["action"]) for a, b in zip(one, two, strict=True))
    assert one[0].episode.info.seed != other[0].episode.info.seed


def test_failures_are_kept_where_that_is_asked(collect, tmp_path, capsys):
    options = {
        "teacher": None,
        "policy": "zero",
        "episodes": 3,
        "noise": 0,
        "env__max_episode_steps": 5,
        "env__obs_mode": "state",
    }
    assert collect(tmp_path / "x", "tabletop/PushCube", keep="all", env__image_size=None, **options) == 0
    assert "tabletop/PushCube: 3 episodes, 15 steps; solved 0/4" in capsys.readouterr().out
    (first, *_) = demos = open_demos(tmp_path / "x")
    assert not first.info.success and first.steps["truncated"].tolist() == [False] * 4 + [True]
    assert demos.keys[-1] == "state" and np.array_equal(first.steps["label"], np.zeros((5, 7)))
    with pytest.raises(Exception, match="no episodes"):
        demos.select(success=True)


def test_collect_stops_if_the_policy_never_succeeds(collect, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rpd.datasets.collect.GIVE_UP", 4)
    assert collect(tmp_path / "x", "tabletop/PushCube", teacher=None, policy="zero", env__max_episode_steps=3) == 1
    assert "zero solved none of 4 episodes; --keep all keeps failures too" in capsys.readouterr().err


def stop_at(monkeypatch, number, act):
    """Call `act` when episode `number` is written."""
    add, calls = RoundWriter.add, []

    def added(self, take):
        calls.append(1)
        if len(calls) == number:
            act()
        add(self, take)

    monkeypatch.setattr(RoundWriter, "add", added)


def interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [3, 10])
def test_resumed_equals_uninterrupted(number, recorded, collect, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, number, interrupted)
        assert collect(tmp_path / "x") == 130
    assert f"to continue: rpd data collect --resume {tmp_path / 'x'}" in capsys.readouterr().out
    assert not list((tmp_path / "x").glob(".*"))
    assert main(["data", "collect", "--resume", str(tmp_path / "x"), "--num-threads", "1"]) == 0
    assert files(tmp_path / "x") == files(recorded)


def test_killed_collection_is_readable_and_resumes(recorded, collect, tmp_path, capsys):
    child = os.fork()
    if child == 0:
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, 6, lambda: os.kill(os.getpid(), signal.SIGKILL))
            collect(tmp_path / "x")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    demos = open_demos(tmp_path / "x")
    assert len(demos) == 4 and all(episode.info.length for episode in demos)
    assert list((tmp_path / "x").glob(".*.tmp"))  # the round that was being played
    assert main(["data", "collect", "--resume", str(tmp_path / "x"), "--num-threads", "1"]) == 0
    assert files(tmp_path / "x") == files(recorded)
    capsys.readouterr()
    assert main(["data", "collect", "--resume", str(tmp_path / "x")]) == 0  # complete
    assert files(tmp_path / "x") == files(recorded) and not list((tmp_path / "x").glob(".*"))


def test_more_episodes_later_equal_more_from_the_start(recorded, collect, tmp_path):
    assert collect(tmp_path / "x", episodes=1) == 0
    assert [r.cut for r in read_index(tmp_path / "x")["rounds"]["tabletop/Reach"]] == [True]
    assert main(["data", "collect", "--resume", str(tmp_path / "x"), "--episodes", "6", "--num-threads", "1"]) == 0
    assert len(open_demos(tmp_path / "x")) == 12
    for a, b in zip(open_demos(tmp_path / "x"), open_demos(recorded), strict=True):
        assert a.info == b.info and all(np.array_equal(a.obs[k], b.obs[k]) for k in a.obs)


def test_refused(recorded, collect, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    x = str(recorded)
    cases = {
        "data collect": "which task? e.g. 'rpd data collect tabletop/PickCube",
        "data collect tabletop/Reach --out y": "which policy acts? add --policy, e.g. --policy scripted",
        "data collect tabletop/Reach --teacher scripted --out y": "unknown option '--teacher': it is --policy now",
        "data collect tabletop/Reach --policy scripted": "where to? add --out",
        "data collect tabletop/Reech --policy scripted --out y": "unknown task 'tabletop/Reech': did you mean tabletop/Reach",
        "data collect tabletop/Reach tabletop/Reech --policy scripted --out y": "unknown task 'tabletop/Reech': did you mean",
        "data collect tabletop/Reach tabletop/Reach --policy scripted --out y": "a task is given twice",
        "data collect tabletop/Reach --policy scriptd --out y": "unknown policy 'scriptd': did you mean scripted?",
        "data collect tabletop/Reach --policy runs/none --out y": "runs/none: does not exist: expected a run",
        "data collect tabletop/Reach --policy scripted --out y --env.cameras fron": "'fron': did you mean front?",
        "data collect tabletop/Reach --policy scripted --out y --episodes 0": "--episodes 0: Input should be greater",
        "data collect tabletop/Reach --policy scripted --out y --noise -1": "--noise -1.0: Input should be greater",
        "data collect tabletop/Reach --policy scripted --out thesis": "thesis has something else in it: choose another --out",
        "data collect tabletop/Reach --policy scripted --out thesis/chapter.tex": "is a file: results need a folder",
        f"data collect tabletop/Reach --policy scripted --out {x}": "has demonstrations already: choose another --out, or",
        f"data collect --resume {x} --noise 0.1": "continues with its own settings: leave out --noise",
        f"data collect --resume {x} --out y": "continues with its own settings: leave out --out",
        f"data collect --resume {x} --env.image-size 32": "continues with its own settings: leave out --env",
        f"data collect tabletop/Reach --resume {x}": "continues with its own settings: leave out the tasks",
        f"data collect --resume {x} --episodes 2": "was to have 6, and can only grow",
        "data collect --resume thesis": "thesis is not a folder of demonstrations: it has no dataset.json",
        "data show none": "none does not exist",
        "data show thesis": "thesis holds no demonstrations: neither dataset.json, nor",
        "data shw thesis": "Expected one of ('show', 'export')",
        f"data show {x} --tasks tabletop/Reech": "'tabletop/Reech': did you mean tabletop/Reach",
        f"data show {x} --out y": "leave out --out: show writes nothing",
        f"data export {x}": "add --out, the folder to write",
        f"data export {x} --out thesis": "thesis exists already: choose another --out",
        f"data export {x} --out y --format rlds": "Expected one of ('lerobot',)",
    }
    for line, says in cases.items():
        assert main(line.split()) == 2, line
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1, (line, err)
        assert os.listdir() == ["thesis"] and os.listdir("thesis") == ["chapter.tex"], line


def test_policy_that_answers_nan_is_named(tmp_path, monkeypatch, collect, capsys):
    monkeypatch.setattr(ZeroPolicy, "act", lambda self, obs, texts: torch.full((len(texts), 7), float("nan")))
    assert collect(tmp_path / "x", "tabletop/Reach", teacher=None, policy="zero") == 1
    assert "non-finite values from the policy zero: action of environment 0" in capsys.readouterr().err
    assert list((tmp_path / "x").iterdir()) == [tmp_path / "x" / "dataset.json"]
