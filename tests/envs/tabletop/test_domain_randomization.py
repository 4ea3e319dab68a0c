"""Randomness as a function of the episode's seed, and each domain randomisation doing what it says and no more."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.tabletop import domain_randomization
from rpd.envs.tabletop.env import TabletopEnv
from rpd.envs.tabletop.tasks import COLORS

N = 8
SEEDS = np.arange(4000)


def make(task: str = "PickCube", **options) -> TabletopEnv:
    env = registry.make(f"tabletop/{task}", EnvConfig(**{"num_envs": N, **options}), num_threads=1)
    assert isinstance(env, TabletopEnv)
    return env


def test_all_means_every_choice():
    assert domain_randomization.chosen(("all",)) == frozenset(domain_randomization.CHOICES)
    assert domain_randomization.chosen(("mass", "delay")) == {"mass", "delay"}
    with pytest.raises(ConfigError, match="did you mean friction"):
        domain_randomization.chosen(("frction",))


def test_draws_stay_in_their_ranges():
    drawn = domain_randomization.draw(SEEDS, frozenset(domain_randomization.CHOICES))
    for name, low, high in (("friction", 0.6, 1.4), ("mass", 0.5, 2.0)):
        assert low <= drawn[name].min() < low + 0.01 and high - 0.01 < drawn[name].max() < high
    assert set(drawn["delay"]) == {0, 1, 2}
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
    delay = late.reset(0)["state"].new_tensor(0) + late.state_dict()["delay"]
    assert set(delay.tolist()) == {0, 1, 2}
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
