"""The ray-cast camera: pinhole geometry, shading, and a cache that never shows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.tabletop.camera import AMBIENT, LEVELS, LIGHT, SKY, Camera, Renderer, look_at, rays
from rpd.envs.tabletop.env import TabletopEnv
from rpd.envs.tabletop.tasks import COLORS

SIZE = 48
CAMERAS = ("front", "side", "wrist")


def make(task: str = "PickCube", **options) -> TabletopEnv:
    given = {"num_envs": 4, "obs_mode": "rgb", "cameras": CAMERAS, "image_size": SIZE, **options}
    env = registry.make(f"tabletop/{task}", EnvConfig(**given), num_threads=1)
    assert isinstance(env, TabletopEnv)
    return env


def project(camera: Camera, point: np.ndarray, size: int) -> tuple[int, int]:
    """Row and column of the pixel that shows a point of the base frame."""
    x, y, z = camera.rotation.T @ (point - camera.position)
    half = np.tan(camera.fov / 2)
    return int((y / z / half + 1) * size / 2), int((x / z / half + 1) * size / 2)


def test_rays_fill_the_field_of_view_from_the_top_left():
    camera = Camera("c", np.zeros(3), np.eye(3), fov=np.pi / 2)
    grid = rays(camera, 2).reshape(2, 2, 3)
    # tan(45 degrees) = 1: pixel centres of a 2 x 2 image lie at +-0.5.
    np.testing.assert_allclose(grid[0, 0], np.array([-0.5, -0.5, 1]) / 1.5**0.5, atol=1e-6)
    np.testing.assert_allclose(grid[0, 1], np.array([0.5, -0.5, 1]) / 1.5**0.5, atol=1e-6)
    np.testing.assert_allclose(grid[1, 0], np.array([-0.5, 0.5, 1]) / 1.5**0.5, atol=1e-6)


def test_look_at_is_upright_and_right_handed():
    camera = look_at("c", (1.0, 0.0, 1.0), (0.0, 0.0, 0.0), fov=0.7)
    right, down, forward = camera.rotation.T
    np.testing.assert_allclose(forward, np.array([-1, 0, -1]) / 2**0.5, atol=1e-12)
    np.testing.assert_allclose(right, [0, 1, 0], atol=1e-12)  # looking back along x, y is on the right
    assert down[2] < 0
    assert np.linalg.det(camera.rotation) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("domain_randomization", [(), ("camera", "colors")])
@pytest.mark.parametrize("task", ["PickCube", "PlaceInBin"])
def test_cached_pictures_are_those_of_casting_every_ray(task, domain_randomization):
    env = make(task, domain_randomization=domain_randomization, max_episode_steps=6)  # cameras move between episodes
    env.reset(0, random_start_length=True)
    rng, ended = torch.Generator().manual_seed(0), 0
    for _ in range(12):
        step = env.step(torch.rand(4, 7, generator=rng) * 2 - 1)
        ended += 0 if step.episode is None else len(step.episode.env)
        for name in ("front", "side"):
            camera = env._renderers[f"image.{name}"].camera
            position, rotation = env._camera_pose(camera)
            every = Renderer(env._batch, dataclasses.replace(camera, mounted=True), SIZE)  # keeps nothing between frames
            full = every.render(position, rotation, env._state["colors"], np.arange(4), np.ones((4, 3)))
            np.testing.assert_array_equal(step.obs[f"image.{name}"].numpy(), full)
    assert ended >= 4


def test_image_does_not_depend_on_rendered_subset():
    env = make()
    obs = env.reset(0)
    for name in CAMERAS:
        some = env._picture(env._renderers[f"image.{name}"], np.array([1, 3]))
        np.testing.assert_array_equal(some, obs[f"image.{name}"][[1, 3]].numpy())


@pytest.mark.parametrize("robot", ["panda", "so101"])
def test_cube_pixels_match_the_pinhole_model(robot):
    size = 96
    env = make(robot=robot, image_size=size)
    obs, state = env.reset(3), env.state_dict()
    half, a = env.robot.cube_half_size, env._world.object_qpos
    seen = 0
    for name in ("front", "side"):
        camera = env._renderers[f"image.{name}"].camera
        for i in range(4):
            top = env._now.qpos[i, a : a + 3] + np.array([0, 0, half])
            row, column = project(camera, top, size)
            pixel = obs[f"image.{name}"][i, row, column].numpy() / 255
            color = list(COLORS.values())[state["names"][i, 1]]
            brightness = AMBIENT + (1 - AMBIENT) * LIGHT[2]  # of a face that looks up
            seen += np.abs(pixel - np.array(color) * brightness).max() < 0.02
    assert seen >= 5  # the gripper or the ball may hide some


def test_faces_towards_the_light_are_brighter():
    env = make(num_envs=1, image_size=64)
    env.reset(0)
    picture = {}
    for side, x in (("lit", 1.0), ("dark", -1.0)):  # the light comes from +x, -y, above
        a, half = env._world.object_qpos, env.robot.cube_half_size
        cube = env._now.qpos[0, a : a + 3].copy()
        env._now.qpos[0, a + 3 : a + 7] = [1, 0, 0, 0]
        env._batch.forward()
        camera = look_at("c", tuple(cube + np.array([x * 0.3, 0, 0])), tuple(cube), fov=2 * np.arctan(half / 2 / 0.28))
        frame = Renderer(env._batch, camera, 8).render(
            camera.position[None], camera.rotation[None], env._state["colors"], np.arange(1), np.ones((1, 3))
        )
        picture[side] = frame[0, 4, 4] / 255
    color = np.array(list(COLORS.values())[env._state["names"][0, 1]])
    np.testing.assert_allclose(picture["lit"], color * (AMBIENT + (1 - AMBIENT) * LIGHT[0]), atol=0.02)
    np.testing.assert_allclose(picture["dark"], color * AMBIENT, atol=0.02)


def test_background_is_sky():
    env = make(num_envs=1)
    env.reset(0)
    camera = look_at("up", (0.5, 0.0, 2.0), (1.5, 0.0, 3.0), fov=0.5)
    frame = Renderer(env._batch, camera, 8).render(
        camera.position[None], camera.rotation[None], env._state["colors"], np.arange(1), np.ones((1, 3))
    )
    assert (frame == (SKY * 255).astype(np.uint8)).all()


def test_wrist_camera_moves_with_the_hand():
    env = make(num_envs=2)
    first = env.reset(0)
    wrist = env._renderers["image.wrist"].camera
    before, hand, tcp = env._camera_pose(wrist), env._now.hand().copy(), env._now.tcp.copy()
    action = torch.zeros(2, 7)
    action[:, 1], action[:, 6] = 1, 1
    for _ in range(5):
        step = env.step(action)
    after = env._camera_pose(wrist)
    for i in range(2):  # the same pose in the tool's frame
        np.testing.assert_allclose(hand[i].T @ (before[0][i] - tcp[i]), wrist.position, atol=1e-9)
        np.testing.assert_allclose(env._now.hand()[i].T @ (after[0][i] - env._now.tcp[i]), wrist.position, atol=1e-9)
        np.testing.assert_allclose(env._now.hand()[i].T @ after[1][i], wrist.rotation, atol=1e-9)
    assert (after[0] - before[0])[:, 1].min() > 3 * env.robot.max_delta_pos
    moved = (first["image.wrist"] != step.obs["image.wrist"]).any(dim=-1).float().mean(dim=(1, 2))
    assert (moved > 0.02).all()


@pytest.mark.parametrize("robot", ["panda", "xarm6", "ur5e", "so101"])
def test_wrist_camera_sees_its_own_fingers(robot):
    env = make(robot=robot, num_envs=1)
    env.reset(0)
    renderer = env._renderers["image.wrist"]
    position, rotation = env._camera_pose(renderer.camera)
    everything = np.broadcast_to(np.arange(SIZE * SIZE), (1, SIZE * SIZE))
    codes = renderer._cast(position, rotation, everything, np.arange(1), np.ones(6, np.uint8))
    seen = set((codes // LEVELS - 1).ravel().tolist())
    assert {env._world.model.geom(name).id for name in env.robot.finger_geoms} <= seen


def test_people_see_shadows_and_any_choice_of_environments():
    env = make()
    env.reset(0)
    every = env.render(size=32)
    assert every.shape == (4, 32, 32, 3) and every.dtype == torch.uint8 and every.device.type == "cpu"
    assert torch.equal(env.render([2, 0, 2], size=32), every[[2, 0, 2]])
    plain = Renderer(env._batch, env._people[32].camera, 32)
    lit = plain.render(*env._camera_pose(plain.camera), env._state["colors"], np.arange(4), np.ones((4, 3)))
    darker = (every.numpy().astype(int) < lit).any(axis=-1).mean(axis=(1, 2))
    assert (darker > 0.01).all() and (every.numpy() <= lit).all()
