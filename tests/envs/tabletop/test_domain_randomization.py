"""Randomness as a function of the episode's seed, and each domain randomisation doing what it says and no more."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.control.state_names import TRACKED
from rpd.envs.errors import ConfigError
from rpd.envs.tabletop import domain_randomization, sensing
from rpd.envs.tabletop.env import TabletopEnv
from rpd.envs.tabletop.mjcf import CONTROL_PERIOD, SUBSTEPS
from rpd.envs.tabletop.tasks import COLORS
from rpd.teachers.scripted import ExpertErrors, ScriptedTeacher

N = 8
SEEDS = np.arange(4000)
OBSERVED = ("state", "privileged", "image.front")


def make(task: str = "PickCube", **options) -> TabletopEnv:
    env = registry.make(f"tabletop/{task}", EnvConfig(**{"num_envs": N, **options}), num_threads=1)
    assert isinstance(env, TabletopEnv)
    return env


def test_groups_select_their_conditions():
    assert domain_randomization.chosen(("all",), "published") == frozenset(domain_randomization.CHOICES)
    assert domain_randomization.chosen(("real", "mass"), "published") == {"mass", *domain_randomization.REAL}
    assert domain_randomization.chosen(("mass", "delay"), "none") == {"mass", "delay"}
    with pytest.raises(ConfigError, match="did you mean friction"):
        domain_randomization.chosen(("frction",), "published")


@pytest.mark.parametrize("names", [("limits",), ("real",), ("all",)])
def test_limits_of_an_arm_that_has_none_are_refused(names):
    with pytest.raises(ConfigError, match=f"env.domain_randomization {names[0]} scales .* env.limits is none"):
        make(domain_randomization=names, limits="none")


def test_draws_stay_in_their_ranges():
    drawn = domain_randomization.draw(SEEDS, frozenset(domain_randomization.CHOICES))
    ranges = {"friction": (0.6, 1.4), "mass": (0.5, 2.0), "age": (0, 0.05), "noise": (0, 1), "limits": (0.5, 1)}
    for name, (low, high) in ranges.items():
        assert low <= drawn[name].min() < low + 0.01 and high - 0.01 < drawn[name].max() < high
    assert set(drawn["delay"]) == set(range(11))
    stiffness, damping, fingers = drawn["gains"].T
    assert 0.5 <= min(stiffness.min(), fingers.min()) < 0.51 and 1.99 < max(stiffness.max(), fingers.max()) <= 2
    ratio = damping / np.sqrt(stiffness)  # of critical damping, relative to the servo's own
    assert 0.7 <= ratio.min() < 0.71 and 1.99 < ratio.max() <= 2
    assert 0.95 * 0.5**0.5 <= drawn["exposure"].min() < 0.7 and 1.45 < drawn["exposure"].max() <= 1.05 * 2**0.5
    assert 0.025 < np.abs(drawn["camera"][:, :3]).max() <= 0.03
    assert 0.045 < np.abs(drawn["camera"][:, 3:]).max() <= 0.05
    assert domain_randomization.draw(SEEDS, frozenset()) == {}


def test_no_randomization_by_default():
    env = make()
    env.reset(0)
    state = env.state_dict()
    assert (state["friction"] == 1).all() and (state["mass"] == 1).all()
    assert not state["delay"].any() and not state["camera"].any()
    own = torch.from_numpy(env._world.model.geom_rgba[:, :3].astype(np.float32))
    robot = np.setdiff1d(np.arange(len(own)), env._world.object_geoms)
    assert (state["colors"][:, robot] == own[robot]).all()


@pytest.mark.parametrize("choice", domain_randomization.CHOICES)
def test_randomization_changes_only_its_named_property(choice):
    plain, env = make(), make(domain_randomization=(choice,))
    plain.reset(0), env.reset(0)
    before, after = plain.state_dict(), env.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert choice in changed
    # A heavier cube also presses harder on the table: accelerations are part of the physics state.
    assert changed <= {choice, "physics"}
    env.reset(0)
    assert all(torch.equal(after[name], value) for name, value in env.state_dict().items())
    env.reset(1)  # environment i has the draw of seed + i
    assert torch.equal(env.state_dict()[choice][:-1], after[choice][1:])


def test_friction_and_mass_reach_the_physics():
    env = make(domain_randomization=("friction", "mass"))
    env.reset(0)
    model, state = env._world.model, env.state_dict()
    for i in range(N):
        np.testing.assert_allclose(env._batch.expand("geom_friction")[i], model.geom_friction * state["friction"][i].item())
        masses = env._batch.expand("body_mass")[i] / np.maximum(model.body_mass, 1e-12)
        assert masses[model.body("object").id] == pytest.approx(state["mass"][i].item())
        assert (np.delete(masses, [0, model.body("object").id]) == 1).all()  # the robot weighs what it weighs


def test_slippery_tables_let_a_cube_slide_further():
    env = make(domain_randomization=("friction",), num_envs=32)
    env.reset(0)
    env._now.qvel[:, env._world.object_qvel] = 0.5
    start = env._now.qpos[:, env._world.object_qpos].copy()
    for _ in range(10):
        env.step(torch.zeros(32, 7))
    slid = env._now.qpos[:, env._world.object_qpos] - start
    friction = env.state_dict()["friction"].numpy()  # distance = v^2 / (2 mu g), as long as the cube does not tip
    assert np.corrcoef(slid, 1 / friction)[0, 1] > 0.95
    assert slid.max() < 0.5**2 / (2 * 0.6 * 9.81)


def test_light_and_heavy_cubes_fall_and_rest_alike():
    env = make(domain_randomization=("mass",))
    env.reset(0)
    height = env._now.qpos[:, env._world.object_qpos + 2]
    height += 0.05
    start = height.copy()
    still = torch.zeros(N, 7)
    env.step(still)
    np.testing.assert_allclose(start - height, 9.81 * 0.05**2 / 2, rtol=0.25)  # g t^2 / 2, in steps of 10 ms
    for _ in range(30):
        env.step(still)
    np.testing.assert_allclose(height, env.robot.cube_half_size, atol=1e-3)


def test_colours_stay_recognisable():
    env = make("StackCube", domain_randomization=("colors",), num_envs=64)
    env.reset(0)
    state, palette = env.state_dict(), torch.tensor(list(COLORS.values()))
    for geoms, column in ((env._world.object_geoms, 1), (env._world.target_geoms, 2)):
        seen = state["colors"][:, geoms[0]]
        nearest = (seen[:, None] - palette).norm(dim=-1).argmin(dim=1)
        assert torch.equal(nearest, state["names"][:, column])
    shades = state["colors"].amax(dim=0) - state["colors"].amin(dim=0)
    assert (shades.amax(dim=1) > 0.08).all()  # everything differs between episodes
    assert (state["colors"] >= 0).all() and (state["colors"] <= 1).all()


def test_camera_shift_moves_the_picture():
    pictures = [make(obs_mode="rgb", image_size=32, domain_randomization=r).reset(0)["image.front"] for r in ((), ("camera",))]
    differing = (pictures[0] != pictures[1]).any(dim=-1).float().mean(dim=(1, 2))
    assert (differing > 0.02).all()
    # A shifted view, not another one: most pixels keep about their brightness.
    assert (pictures[0].float() - pictures[1].float()).abs().mean() < 30


def test_delayed_command_arrives_that_many_steps_late():
    late, prompt = make("Reach", domain_randomization=("delay",), num_envs=16), make("Reach", num_envs=16)
    late.reset(0)
    late._state["delay"] = SUBSTEPS * (np.arange(16) % 3)  # whole control steps
    delay = late.state_dict()["delay"] / SUBSTEPS
    rng = torch.Generator().manual_seed(0)
    commands = torch.rand(6, 16, 7, generator=rng) * 2 - 1
    arrived = torch.zeros(2 + 6, 16, 7)
    arrived[:2, :, 6] = 1.0  # at first: stay, gripper open
    arrived[2:] = commands
    prompt.reset(0)
    for t, command in enumerate(commands):
        due = arrived[2 + t - delay.long(), torch.arange(16)]
        expected, got = prompt.step(due), late.step(command)
        if expected.episode is not None:
            break
        assert torch.equal(expected.obs["state"], got.obs["state"])
    assert t >= 3


def test_command_between_two_control_steps_reaches_the_servos_late():
    late, prompt = make("Reach", domain_randomization=("delay",)), make("Reach")
    late.reset(0), prompt.reset(0)
    late._state["delay"] = np.arange(N) % SUBSTEPS  # 0 to 40 ms
    command = torch.ones(N, 7)
    moved = []
    for env in (late, prompt):
        start = env._now.tcp.copy()
        env.step(command)
        moved.append(np.linalg.norm(env._now.tcp - start, axis=1))
    share = moved[0] / moved[1]
    assert share[0] == 1 and share[SUBSTEPS] == 1
    assert (np.diff(share[:SUBSTEPS]) < -0.05).all()
    np.testing.assert_array_equal(late._control.goals, prompt._control.goals)


def test_old_observations_lie_between_two_control_steps():
    old, fresh = make(domain_randomization=("age",)), make()
    old.reset(0), fresh.reset(0)
    age = old.state_dict()["age"].numpy() / CONTROL_PERIOD
    tracked = np.array([name.startswith(TRACKED) for name in fresh.spec.state_names])
    touch = np.array([name.startswith("touch.") for name in fresh.spec.state_names])
    share = age[:, None] * np.where(tracked, 1.0, sensing.OWN_AGE)
    share[:, touch] = np.round(share[:, touch])
    before = None
    for command in torch.rand(4, N, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1:
        seen, now = (env.step(command).obs for env in (old, fresh))
        if before is not None:
            np.testing.assert_allclose(seen["state"], (1 - share) * now["state"].numpy() + share * before, rtol=1e-4, atol=1e-5)
        assert torch.equal(seen["privileged"], now["privileged"])  # teachers and critics see the present
        before = now["state"].numpy()


def test_old_images_are_those_of_the_step_before():
    images = {"obs_mode": "rgb", "image_size": 16}
    old, fresh = make(domain_randomization=("age",), **images), make(**images)
    before = [env.reset(0) for env in (old, fresh)][1]["image.front"]
    stale = old.state_dict()["age"] > CONTROL_PERIOD / 2
    assert 0 < stale.sum() < N
    for _ in range(3):
        seen, now = (env.step(torch.ones(N, 7)).obs["image.front"] for env in (old, fresh))
        assert torch.equal(seen[stale], before[stale]) and torch.equal(seen[~stale], now[~stale])
        before = now


def test_noise_of_observations_has_its_spread_and_is_that_of_the_seed():
    noisy, clean = make(domain_randomization=("noise",), num_envs=256), make(num_envs=256)
    errors = [(noisy.reset(0)["state"] - clean.reset(0)["state"]).numpy()]
    for _ in range(4):
        errors.append((noisy.step(torch.zeros(256, 7)).obs["state"] - clean.step(torch.zeros(256, 7)).obs["state"]).numpy())
    relative = np.stack(errors) / np.maximum(noisy.state_dict()["noise"].numpy(), 0.05)[None, :, None]
    relative = relative[:, noisy.state_dict()["noise"].numpy() > 0.05]
    for i, name in enumerate(noisy.spec.state_names):
        stays, changes = sensing.deviations(name)
        assert relative[..., i].std() == pytest.approx(np.hypot(stays, changes), rel=0.15, abs=1e-6), name
        assert relative[..., i].std(axis=0).mean() == pytest.approx(0.84 * changes, rel=0.15, abs=1e-6)  # of 5 numbers
    again = make(domain_randomization=("noise",), num_envs=8)
    assert np.array_equal(again.reset(3)["state"], noisy.reset(0)["state"][3:11])


def test_gains_reach_the_servos_and_change_their_lag():
    env = make(domain_randomization=("gains",), num_envs=32)
    env.reset(0)
    model, gains = env._world.model, env.state_dict()["gains"].numpy()
    joints = len(env.robot.joints)
    stiffness = env._batch.expand("actuator_gainprm")[:, :, 0] / model.actuator_gainprm[:, 0]
    damping = env._batch.expand("actuator_biasprm")[:, :, 2] / model.actuator_biasprm[:, 2]
    np.testing.assert_allclose(stiffness[:, :joints], np.repeat(gains[:, :1], joints, axis=1))
    np.testing.assert_allclose(damping[:, :joints], np.repeat(gains[:, 1:2], joints, axis=1))
    assert (stiffness[:, joints:] == 1).all() and (damping[:, joints:] == 1).all()
    for _ in range(4):
        env.step(torch.tensor([[0.3, 0, 0, 0, 0, 0, -1.0]]).repeat(32, 1))
    lag = np.abs(env._control.goals[:, :joints] - env._now.qpos[:, env._world.arm]).max(axis=1)
    assert np.corrcoef(lag, gains[:, 1] / gains[:, 0])[0, 1] > 0.9  # damping / stiffness
    closed = env.robot.opening / 2 - env._control.goals[:, joints]
    np.testing.assert_allclose(closed, np.minimum(4 * env._control.finger_step * gains[:, 2], env.robot.opening / 2))


def test_scaled_limits_bound_the_motion():
    env = make("Reach", domain_randomization=("limits",), num_envs=32)
    env.reset(0)
    factor, joints = env.state_dict()["limits"].numpy()[:, None], len(env.robot.joints)
    position, velocity = env._control.goals[:, :joints].copy(), np.zeros((32, joints))
    used = np.zeros(32)
    acceleration = np.array(env.robot.acceleration) * factor
    for _ in range(8):
        env.step(torch.ones(32, 7))
        rate = (env._control.goals[:, :joints] - position) / CONTROL_PERIOD
        change = np.abs(rate - velocity) / (acceleration * CONTROL_PERIOD)
        assert (change <= 1 + 1e-6).all()
        assert (np.abs(rate) <= np.array([link.velocity for link in env.robot.links]) * factor + 1e-6).all()
        position, velocity, used = env._control.goals[:, :joints].copy(), rate, np.maximum(used, change.max(axis=1))
    assert (used > 0.99).all()


def test_exposure_changes_brightness_alone():
    plain, env = (make(obs_mode="rgb", image_size=16, domain_randomization=r) for r in ((), ("exposure",)))
    dark, seen = plain.reset(0)["image.front"].numpy(), env.reset(0)["image.front"].numpy()
    expected = np.minimum(dark * env.state_dict()["exposure"].numpy()[:, None, None], 255)
    np.testing.assert_allclose(seen, expected, atol=2)
    assert (np.abs(seen.mean(axis=(1, 2, 3)) / dark.mean(axis=(1, 2, 3)) - 1) > 0.02).any()


def test_real_conditions_continue_bit_for_bit():
    one, two = (make(domain_randomization=("real",), obs_mode="rgb", image_size=16, max_episode_steps=5) for _ in range(2))
    one.reset(0), two.reset(50)
    commands = torch.rand(10, N, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for command in commands[:3]:
        last = one.step(command).obs
    restored = two.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    assert all(torch.equal(restored[key], last[key]) for key in OBSERVED)
    for command in commands[3:]:
        a, b = one.step(command).obs, two.step(command).obs
        assert all(torch.equal(a[key], b[key]) for key in OBSERVED)


def test_expert_solves_real_conditions():
    env = make("PickCube", domain_randomization=("real",), num_envs=64)
    obs, solved = env.reset(0), np.zeros(64, dtype=bool)
    teacher = ScriptedTeacher(env.spec, ExpertErrors())
    for _ in range(env.spec.max_episode_steps):
        step = env.step(teacher.act(obs, env.instructions))
        obs = step.obs
        solved |= step.terminated.numpy()
    assert solved.mean() > 0.65  # 164 of 200; delays are what it does not know of
