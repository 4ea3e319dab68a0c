"""The public API: what `import rpd` alone can do."""

import json

import pytest
import torch
import yaml

import rpd

SMALL = {
    "env": {"num_envs": 4, "max_episode_steps": 10},
    "ppo": {"num_steps": 8},
    "eval_episodes": 2,
    "num_threads": 1,
}


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    return rpd.train(small(total_timesteps=32), runs_dir=tmp_path_factory.mktemp("runs"), name="x")


def test_train_returns_the_complete_run(run):
    assert run.complete and run.path.name == "x"
    assert run.summary["task"] == "tabletop/Reach" and run.summary["student"]["n"] == 3
    assert [line["step"] for line in run.metrics] == [32]
    assert rpd.read_run(run.path) == run


def test_train_options_are_over_the_shipped_settings(tmp_path):
    changes = {"total_timesteps": 32, "final_eval_episodes": 2}
    run = rpd.train(task="tabletop/Reach", teacher="scripted", runs_dir=tmp_path, seed=3, **SMALL, **changes)
    expected = rpd.configure("tabletop/Reach", {"teacher": "scripted", "seed": 3, **SMALL, **changes})
    assert yaml.safe_load(run.config) == expected.model_dump(mode="json")
    assert run.path.parent == tmp_path and "seed3" in run.path.name


def test_train_options_are_over_a_configuration(small, tmp_path):
    run = rpd.train(small(total_timesteps=32), runs_dir=tmp_path, seed=5, env={"num_envs": 2})
    assert run.summary["seed"] == 5 and "num_envs: 2" in run.config and "max_episode_steps: 10" in run.config


def test_train_refuses_mistakes_before_it_makes_a_folder(small, tmp_path):
    for message, config, options in (
        ("which task?", None, {}),
        ("unknown task 'tabletop/Raech'", None, {"task": "tabletop/Raech"}),
        ("unknown key in tabletop/Reach 'sede'", None, {"task": "tabletop/Reach", "sede": 1}),
        ("unknown key in tabletop/Reach 'env.num_env'", small(), {"env": {"num_env": 2}}),
        ("tabletop/Reach: seed -1", small(), {"seed": -1}),
    ):
        with pytest.raises(rpd.ConfigError, match=message):
            rpd.train(config, runs_dir=tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").touch()
    with pytest.raises(rpd.ConfigError, match="x exists already"):
        rpd.train(small(), runs_dir=tmp_path, name="x")


def test_interrupted_run_raises_and_is_resumed(small, tmp_path, monkeypatch):
    import os
    import signal

    from rpd.runs.tracker import Tracker

    log = Tracker.log

    def interrupt(self, step, metrics):
        log(self, step, metrics)
        if step == 32:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Tracker, "log", interrupt)
    with pytest.raises(KeyboardInterrupt):
        rpd.train(small(total_timesteps=64), runs_dir=tmp_path, name="x")
    stopped = rpd.read_run(tmp_path / "x")
    assert not stopped.complete and stopped.summary["steps"] == 32
    monkeypatch.undo()
    assert rpd.resume(tmp_path / "x").complete


def test_evaluate_by_name(run, tmp_path):
    result = rpd.evaluate(run.path, episodes=5, seed=7)
    assert (result.task, result.n, result.episodes[0].seed, result.mean_length) == ("tabletop/Reach", 5, 7, 10)
    assert not (run.path / "eval").exists()  # nothing is saved
    saved = rpd.evaluate(run.path, episodes=5, seed=7, out=tmp_path / "x", num_threads=1)
    assert saved == result and json.loads((tmp_path / "x" / "eval.json").read_text())["n"] == 5
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["episodes.jsonl", "eval.json", "report.html"]


def test_evaluate_in_an_environment(run):
    env = rpd.make_env("tabletop/Reach", num_envs=3, max_episode_steps=10, num_threads=1)
    named = rpd.evaluate(run.path, env=env, episodes=5, seed=7)
    loaded = rpd.evaluate(rpd.load_policy(run.path, env), env=env, episodes=5, seed=7)
    own = rpd.evaluate(run.path, episodes=5, seed=7)
    assert named == loaded
    assert [e.seed for e in own.episodes] == [e.seed for e in named.episodes]
    assert own.mean_return == pytest.approx(named.mean_return, rel=1e-5)  # another batch size rounds differently
    frames = []
    rpd.evaluate("zero", env=env, episodes=3, on_frame=lambda env, running, success: frames.append(running.sum().item()))
    assert frames[0] == 3 and len(frames) <= 11
    env.close()


def test_evaluate_refuses_mistakes(run, tmp_path):
    env = rpd.make_env("tabletop/Reach", num_envs=1, num_threads=1)
    policy = rpd.load_policy("zero", env)
    for message, call in (
        ("on which task", lambda: rpd.evaluate("zero")),
        ("unknown option of evaluate 'robt'", lambda: rpd.evaluate("zero", "tabletop/Reach", robt="panda")),
        ("evaluate: episodes 0: ", lambda: rpd.evaluate("zero", "tabletop/Reach", episodes=0)),
        ("which environment does zero act", lambda: rpd.evaluate(policy)),
        ("task does not apply to an environment", lambda: rpd.evaluate(policy, "tabletop/Reach", env=env)),
        ("video needs a folder", lambda: rpd.evaluate("zero", "tabletop/Reach", video=True)),
        ("unknown policy", lambda: rpd.evaluate(run.path.parent / "y")),
        ("unknown option of an environment 'robt'", lambda: rpd.make_env("tabletop/Reach", robt="panda")),
        ("env.num_envs 0: ", lambda: rpd.make_env("tabletop/Reach", num_envs=0)),
    ):
        with pytest.raises(rpd.ConfigError, match=message):
            call()
    env.close()


def test_compare_pairs_the_same_episodes_alone():
    zero = rpd.evaluate("zero", "tabletop/Reach", episodes=4)
    expert = rpd.evaluate("scripted", "tabletop/Reach", episodes=4)
    assert rpd.compare(expert, zero).diff == expert.rate - zero.rate
    short = rpd.evaluate("zero", "tabletop/Reach", episodes=4, max_episode_steps=10)
    with pytest.raises(rpd.ConfigError, match=r"different episodes \(max_episode_steps: scripted 50 and zero 10\)"):
        rpd.compare(expert, short)


def test_teacher_acts_in_an_environment():
    env = rpd.make_env("tabletop/Reach", rpd.EnvConfig(num_envs=2), num_threads=1)
    teacher = rpd.make_teacher("scripted", env.spec)
    assert teacher.act(env.reset(seed=0), env.instructions).shape == (2, env.spec.action.dim)
    with pytest.raises(rpd.ConfigError, match="unknown teacher"):
        rpd.make_teacher("scriptd", env.spec)
    env.close()


def test_export_policy(run, tmp_path):
    pytest.importorskip("onnxruntime")
    exported = rpd.export_policy(run.path, tmp_path / "out")
    assert exported.folder == tmp_path / "out"
    env = rpd.make_env("tabletop/Reach", num_envs=1, max_episode_steps=10, num_threads=1)
    obs = env.reset(seed=0)
    expected = rpd.load_policy(run.path, env).act(obs, env.instructions)[0]
    assert torch.allclose(torch.as_tensor(exported.act({"state": obs["state"][0].numpy()})), expected, atol=1e-5)
    with pytest.raises(rpd.ConfigError, match="exists already"):
        rpd.export_policy(run.path, tmp_path / "out")
    with pytest.raises(rpd.ConfigError, match="nothing: does not exist"):
        rpd.export_policy(tmp_path / "nothing")
    env.close()
