"""A policy folder alone says where the policy was trained, and what differs elsewhere is said or refused."""

import json
from pathlib import Path

import pytest

from rpd.cli.eval import EvalConfig
from rpd.cli.main import main
from rpd.envs.config import EnvConfig
from rpd.envs.registry import make
from rpd.evaluation.environments import environments
from rpd.policies.made_for import made_for, remarks
from rpd.reporting.curves import labels
from rpd.reporting.run_report import write
from rpd.runs.reader import read_run
from rpd.students.actor_critic import ActorCritic
from rpd.students.io import pretrained
from rpd.teachers.refs import trained_path
from rpd.training.on_policy import OnPolicyTrainer
from rpd.training.specialists import home

OWN = {"num_envs": 4, "max_episode_steps": 12, "domain_randomization": ("mass",), "reward": "sparse"}


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory):
    """Two runs of different settings, and copies of their policies outside of any run."""
    root = tmp_path_factory.mktemp("runs")
    for name, env in {"x": OWN, "y": {"num_envs": 4, "max_episode_steps": 9}}.items():
        OnPolicyTrainer(small(total_timesteps=32, env=env), root / name).run()
        policy = ActorCritic.from_pretrained(root / name / "checkpoints" / "last" / "policy")
        policy.save_pretrained(root / f"bare-{name}")
    return root


@pytest.fixture
def old(runs, tmp_path):
    """The policy of x as it was saved before specs held settings."""
    folder = tmp_path / "old"
    ActorCritic.from_pretrained(runs / "bare-x").save_pretrained(folder)
    data = json.loads((folder / "config.json").read_text())
    del data["spec"]["settings"], data["schema"], data["sha256"]
    data = {"schema": pretrained.SCHEMA, **data, "sha256": pretrained._config_digest(data)}
    (folder / "config.json").write_text(json.dumps(data))
    return folder


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def chosen(*names, **options):
    task, configs = environments(EvalConfig(policy=str(names[0]), episodes=2, **options), [str(name) for name in names])
    return task, configs


def test_copy_is_judged_as_the_run_is(runs):
    (run,), (copy,) = chosen(runs / "x")[1], chosen(runs / "bare-x")[1]
    assert run == copy
    assert (copy.max_episode_steps, copy.domain_randomization, copy.reward) == (12, ("mass",), "sparse")


def test_export_and_a_policy_as_a_teacher_are_judged_alike(runs):
    pytest.importorskip("onnxruntime")
    assert main(["export", str(runs / "bare-x"), "--out", "export"]) == 0
    for name in ("export", str(runs / "bare-x")):
        assert chosen(name) == chosen(runs / "x")


@pytest.mark.parametrize("bare", ["", "bare-"])
def test_different_settings_are_compared_only_with_the_setting_named(runs, bare, capsys):
    x, y = str(runs / f"{bare}x"), str(runs / f"{bare}y")
    for names in ((x, y), (y, x)):
        assert main(["eval", *names, "--episodes", "2"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and x in said and y in said and "--reward" in said
    named = {"reward": "dense", "max_episode_steps": 9, "domain_randomization": ()}
    for name in named:  # each of them alone is missing
        with pytest.raises(Exception, match=f"--{name.replace('_', '-')}"):
            chosen(x, y, **{k: v for k, v in named.items() if k != name})
    assert chosen(x, y, **named) == chosen(y, x, **named)


def test_two_tasks_are_not_compared_on_the_first_ones(runs, small, tmp_path):
    OnPolicyTrainer(small(total_timesteps=32, task="tabletop/PushCube", env=OWN), tmp_path / "z").run()
    with pytest.raises(Exception, match=r"task: .*x tabletop/Reach, .*z tabletop/PushCube.*--task"):
        chosen(runs / "x", tmp_path / "z")


def test_baseline_takes_the_policys_environment_in_either_order(runs):
    assert chosen("zero", runs / "bare-x")[1][0] == chosen(runs / "bare-x", "zero")[1][0]


def test_missing_environment_settings_are_reported(old, runs, capsys):
    assert made_for(old).settings is None
    assert main(["eval", str(old), "--episodes", "2", "--video", "False", "--out", "out"]) == 0
    said = capsys.readouterr().out
    assert f"{old}: its folder does not record all settings of its training; assumed: no randomisation" in said
    assert "assumed" in json.loads((old.parent / "out" / "eval.json").read_text())["notes"][0]
    (runs / "x" / "old").mkdir()
    old.rename(runs / "x" / "checkpoints" / "old")  # in its run, whose configuration knows
    assert made_for(runs / "x" / "checkpoints" / "old").settings == made_for(runs / "x").settings


def test_task_mismatch_gives_one_line(runs, capsys):
    assert main(["eval", str(runs / "x"), "--task", "tabletop/PushCube", "--episodes", "2", "--out", "other"]) == 0
    line = f"{runs / 'x'} was trained in another environment: task tabletop/Reach, here tabletop/PushCube; max_episode_steps 12"
    assert line in capsys.readouterr().out
    assert "task tabletop/Reach, here tabletop/PushCube" in Path("other/report.html").read_text()


def test_suite_reports_training_environment(runs, capsys):
    words = [
        "eval",
        str(runs / "x"),
        "--suite",
        "tabletop",
        "--task",
        "tabletop/PushCube",
        "--episodes",
        "1",
        "--video",
        "False",
    ]
    assert main([*words, "--out", "s"]) == 0
    said = capsys.readouterr().out
    assert "was trained on tabletop/Reach; each task of the suite has its own episode length" in said
    assert json.loads(Path("s/eval.json").read_text())["env"]["domain_randomization"] == ["mass"]


def test_overridden_suite_settings_are_reported(runs, capsys):
    assert main(["eval", "zero", "--suite", "rpd-maniskill", "--reward", "dense"]) == 2
    assert "--reward: suite rpd-maniskill is evaluated with reward sparse: leave it out" in capsys.readouterr().err


def test_remarks_of_teachers_and_bases(runs, arguments, capsys):
    path = runs / "bare-x"
    assert trained_path(str(path)) == trained_path(path) == path
    assert all(trained_path(name) is None for name in ("scripted:noisy", "zero", "remote:ws://x:1", None))
    env = make("tabletop/Reach", EnvConfig(num_envs=1, max_episode_steps=10))
    expected = f"{path} was trained in another environment: reward sparse, here dense; max_episode_steps 12, here 10; "
    assert remarks(env.spec, str(path), None) == [expected + "domain_randomization mass, here none"]
    assert main([*arguments(teacher=str(path)), "--total-timesteps", "32"]) == 0
    assert expected in capsys.readouterr().out


def test_collect_reports_environment_differences(runs, collect, capsys):
    pytest.importorskip("h5py")
    options = {"policy": runs / "bare-x", "keep": "all", "episodes": 2, "env.image-size": None}
    assert collect("demos", "tabletop/Reach", **options, **{"env.obs_mode": "state", "env.max-episode-steps": 5}) == 0
    assert "max_episode_steps 12, here 5; domain_randomization mass, here none" in capsys.readouterr().out


def test_specialists_play_where_they_were_trained(runs):
    task, config = home(runs / "x")
    assert (task, config.max_episode_steps, config.domain_randomization) == ("tabletop/Reach", 12, ("mass",))
    assert home(runs / "x", "ur5e_slow")[1].max_episode_steps is None  # which gets twice the time


def test_report_does_not_draw_different_settings_as_seeds_of_one(runs, tmp_path):
    names = labels([read_run(runs / name).summary for name in ("x", "y")])
    assert names[0] != names[1] and "max_episode_steps 12" in names[0] and "domain_randomization default" in names[1]
    assert "max_episode_steps 9" in write([runs / "x", runs / "y"], tmp_path / "r.html").read_text()
