"""Single Gymnasium environments: spaces, actions, success, endings, repetition, and how their faults are reported."""

import gymnasium
import numpy as np
import pytest
import torch

from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.gym.plan import plan
from rpd.envs.gym.sim import Sim, factory
from rpd.envs.registry import make, task_info


def sim(task, **options) -> Sim:
    config = EnvConfig(**{"reward": "dense"} | options)
    return factory(task, config.model_dump(mode="json"))()


def test_pendulum_is_gymnasiums():
    ours, theirs = sim("gym/Pendulum-v1"), gymnasium.make("Pendulum-v1")
    obs, _ = theirs.reset(seed=7)
    assert torch.equal(ours.reset(7)["state"][0], torch.from_numpy(obs))
    for action in np.random.default_rng(0).uniform(-1, 1, (200, 1)).astype(np.float32):
        obs, reward, terminated, truncated, _ = theirs.step(np.float32(2) * action)
        got = ours.step(torch.from_numpy(action)[None])
        assert torch.equal(got.obs["state"][0], torch.from_numpy(obs)) and got.reward.item() == np.float32(reward)
        assert (got.terminated.item(), got.truncated.item()) == (terminated, truncated)
    assert truncated and not terminated
    assert ours.spec.control_hz == 30 and ours.spec.max_episode_steps == 200 and ours.spec.action.scale == (2.0,)


def test_names_images_and_actions_of_a_nested_space(examples):
    env = sim(f"{examples}Line", max_episode_steps=9, obs_mode="rgb", make_kwargs=("camera=true",))
    spec = env.spec
    assert spec.state_names == ("goal.x.0", "goal.kind.0", "goal.kind.1", "position.0")
    assert spec.observations["image.view"].shape == (16, 16, 3) and spec.action.dim == 1
    assert (spec.action.center, spec.action.scale, spec.max_episode_steps) == ((0.25,), (0.25,), 9)
    first = env.reset(3)
    second = env.step(torch.tensor([[1.0]])).obs
    assert first["state"][0, :3].tolist() == [1, 0, 1] and second["image.view"].unique().tolist() == [1]
    assert second["state"][0, 3] - first["state"][0, 3] == pytest.approx(0.5)
    assert env.render().unique().tolist() == [round(100 + 50 * second["state"][0, 3].item())]


def test_rendered_pictures_can_be_observed(examples):
    env = sim(f"{examples}Line", max_episode_steps=9, obs_mode="rgb", image_size=20, teacher_cameras=("render",),
              teacher_image_size=10)  # fmt: skip
    assert env.observe()["image.render"].shape == (1, 20, 20, 3) and env.spec.cameras == ["image.render"]
    assert env.teacher_images()["view.render"].shape == (1, 10, 10, 3)


@pytest.mark.parametrize("late", ["false", "true"])
def test_success_is_an_entry_of_info(examples, late):
    options = {"max_episode_steps": 5, "success": "score.reached", "make_kwargs": (f"late={late}",)}
    env = sim(f"{examples}line", **options, reward="sparse")
    env.reset(0)
    outcomes = [env.step(torch.tensor([[1.0]])) for _ in range(5)]
    assert [o.success.item() for o in outcomes][-1] and not outcomes[0].success.item()
    assert [o.reward.item() for o in outcomes] == [float(o.success.item()) for o in outcomes]
    assert outcomes[-1].truncated.item() and not outcomes[-2].truncated.item()


@pytest.mark.parametrize(("threshold", "solved"), [("-1e9", True), ("1e9", False)])
def test_success_is_a_return_of_a_whole_episode(examples, threshold, solved):
    env = sim(f"{examples}line", max_episode_steps=3, success=f"return >= {threshold}")
    assert [env.step(torch.tensor([[0.0]])).success.item() for _ in range(3)] == [False, False, solved]


def test_success_of_a_registration_and_none_at_all():
    assert sim("gym/MountainCarContinuous-v0")._plan.success.threshold == 90
    remarks = sim("gym/Pendulum-v1").remarks
    assert len(remarks) == 1 and "defines no success" in remarks[0] and "--env.success" in remarks[0]


def test_episode_is_restored_by_its_actions(examples):
    one, other = sim(f"{examples}line", max_episode_steps=5), sim(f"{examples}line", max_episode_steps=5)
    one.reset(11)
    one.step(torch.tensor([[0.3]]))
    one.step(torch.tensor([[-0.9]]))
    other.reset(11)
    other.set_state(one.get_state())
    assert torch.equal(one.observe()["state"], other.observe()["state"]) and one.exact_resume
    assert torch.equal(one.get_state(), other.get_state())


def test_environment_that_does_not_repeat_itself_is_not_restored(examples):
    env = sim(f"{examples}line", max_episode_steps=5, make_kwargs=("random=true",))
    assert not env.exact_resume and env.get_state().shape == (1, 0) and "starts new episodes" in env.remarks[-2]


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("gym/CartPole-v1", {}, r"gym/CartPole-v1: actions are Discrete\(2\).*bounded Box"),
        ("{}line", {"make_kwargs": ("action=Box(-inf, 1.0, (2,))",)}, r"action 0 is in \[-inf, 1\].*RescaleAction"),
        ("{}line", {"make_kwargs": ("obs=Text",)}, r"observation 'obs' is Text; supported: Box"),
        ("{}line", {"make_kwargs": ("shape=[2]",)}, r"observation 'position' has shape \(2,\), and in observation_space"),
        ("{}line", {"make_kwargs": ("shade=1",)}, r"line: TypeError: .*shade"),
        ("{}line", {"make_kwargs": ("shade",)}, r"env.make_kwargs: 'shade' is not an option; write KEY=VALUE"),
        ("{}line", {"success": "reached"}, r"info has no 'reached', only score: set env.success to one of them"),
        ("{}line", {"success": "return>=much"}, r"'much' is not a number"),
        ("{}line", {"reward": "sparse"}, r"defines no success, which the sparse reward is made of: add --env.success"),
        ("{}line", {"max_episode_steps": None}, r"no time limit.*--env.max-episode-steps"),
        ("{}Line", {"obs_mode": "rgb", "cameras": ("front",)}, r"unknown camera for gym/gym_examples:Line 'front'"),
        ("{}LENGTH", {}, r"unknown environment of gym_examples 'LENGTH'.*"),
        ("{}Lime", {}, r"unknown environment of gym_examples 'Lime': did you mean Line"),
    ],
)
def test_bad_input_is_one_line(examples, task, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        plan(task.format(examples), EnvConfig(**{"max_episode_steps": 5, "reward": "dense"} | options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("gym/Pendulun-v1", r"unknown task 'gym/Pendulun-v1': did you mean gym/Pendulum-v1"),
        ("gym/never_installed_package:Task-v0", r"module 'never_installed_package' is imported only where you name it"),
        ("gym/folder/file.py:make", r"folder/file.py is imported only where you name it: add --import folder/file.py"),
    ],
)
def test_unknown_names(task, message):
    with pytest.raises(ConfigError, match=message):
        task_info(task)


def test_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs gym-pusht, which is not installed: pip install gym-pusht"):
        task_info("gym/gym_pusht/PushT-v0")


@pytest.mark.slow
def test_workers_end_episodes_as_the_environment_does(examples):
    env = make(f"{examples}Line", EnvConfig(num_envs=3, num_workers=1, max_episode_steps=5, success="score.reached"))
    try:
        assert env.exact_resume and env.instructions == ["line"] * 3
        env.reset(0)
        steps = [env.step(torch.tensor([[0.4], [-1.0], [0.0]])) for _ in range(5)]
        assert steps[-1].truncated.all() and not steps[-1].terminated.any()
        assert steps[-1].episode.length.tolist() == [5] * 3 and steps[-1].episode.success_once.tolist()[:2] == [True, False]
        state = env.state_dict()
        ahead = [env.step(torch.full((3, 1), 0.5)) for _ in range(3)]
        assert torch.equal(env.load_state_dict(state)["state"], steps[-1].obs["state"])
        again = [env.step(torch.full((3, 1), 0.5)) for _ in range(3)]
        assert all(torch.equal(a.obs["state"], b.obs["state"]) for a, b in zip(ahead, again, strict=True))
    finally:
        env.close()
