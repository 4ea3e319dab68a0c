"""Viewpoints in specs: points project to where the simulators draw them."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from rpd.cli.main import main
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.specs import EnvSpec, Viewpoint
from rpd.export.runtime import described
from tests.envs.test_specs import spec

SIZE = 128


def project(view, point, size=SIZE):
    """Pixel (column, row) of a point [3] in the frame of a viewpoint."""
    right, down, forward = (np.asarray(point) - view.position) @ np.array(view.rotation)
    focal = size / 2 / np.tan(view.fov / 2)
    return np.array([focal * right, focal * down]) / forward + size / 2 - 0.5


def middle(mask):
    """Pixel (column, row) of the middle of a mask [H, W]."""
    assert mask.sum() >= 5
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()])


def magenta(image):
    red, green, blue = np.moveaxis(np.asarray(image, dtype=int), -1, 0)
    return (np.minimum(red, blue) > 2 * green) & (red > 30)


@pytest.fixture(scope="module")
def tabletop():
    config = EnvConfig(num_envs=1, obs_mode="rgb", cameras=("front", "side", "wrist"), image_size=SIZE)
    env = envs.make("tabletop/PickCube", config, torch.device("cpu"))
    env.reset(0)
    yield env
    env.close()


@pytest.mark.parametrize("camera", ["front", "side", "wrist"])
def test_tabletop_draws_the_object_at_its_projection(tabletop, camera):
    env = tabletop
    view = env.spec.viewpoints[f"image.{camera}"]
    assert view.mounted == (camera == "wrist")
    env._state["colors"][:, env._world.object_geoms] = (1, 0, 1)
    image = env._observe(np.arange(1))[f"image.{camera}"][0]
    place = env._now.qpos[0, env._world.object_qpos : env._world.object_qpos + 3]
    if view.mounted:
        place = env._now.hand()[0].T @ (place - env._now.tcp[0])
    np.testing.assert_allclose(middle(magenta(image)), project(view, place), atol=1.5)


DRAW = """
import json, sys
import mujoco
import numpy as np
from rpd.envs.libero import cameras, tasks
from rpd.envs.libero.world import World
from rpd.envs.rendering import opengl

camera, painted, out = sys.argv[1:]
platform = opengl.platform()
world = World(tasks.resolve("libero/spatial-0")[0])
slot, model = world.slot(), world.model
data = mujoco.MjData(model)
world.reset(slot, 0)
world.seen(slot, data)
view, body = cameras.viewpoints(model, [camera])[camera], model.body(painted).id
geoms = model.geom_bodyid == body
model.geom_matid[geoms], model.geom_rgba[geoms] = -1, (1, 0, 1, 1)
frame = data.site("gripper0_grip_site") if view.mounted else data.body("robot0_base")
place = frame.xmat.reshape(3, 3).T @ (data.xipos[body] - frame.xpos)
np.save(out, cameras.Camera(model, platform, "cheap", 256).render(data, camera, 256))
print(json.dumps({"view": view.model_dump(), "place": place.tolist()}))
"""
"""Paints a body, and draws it; in a process of its own, because OpenGL binds one platform per process."""


@pytest.mark.libero
@pytest.mark.slow
@pytest.mark.parametrize(
    ("camera", "painted", "pixels"),
    [("agentview", "akita_black_bowl_1_main", 12), ("robot0_eye_in_hand", "gripper0_leftfinger", 30)],
)
def test_libero_draws_a_body_at_its_projection(camera, painted, pixels, tmp_path):
    """Mirrored, as in its demonstrations; a finger is long, and its visible part lies beside its middle."""
    if importlib.util.find_spec("robosuite") is None:  # its import chooses a renderer for the whole process
        pytest.skip("robosuite is not installed")
    done = subprocess.run(
        [sys.executable, "-c", DRAW, camera, painted, str(tmp_path / "image.npy")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    view = Viewpoint.model_validate(found["view"])
    assert view.mounted == (camera != "agentview") and np.linalg.det(view.rotation) == pytest.approx(-1)
    drawn = middle(magenta(np.load(tmp_path / "image.npy")))
    np.testing.assert_allclose(drawn, project(view, found["place"], 256), atol=pixels)


@pytest.mark.maniskill
@pytest.mark.slow
def test_maniskill_draws_the_cube_at_its_projection():
    pytest.importorskip("mani_skill")
    from rpd.envs.maniskill.sim import Sim

    names = ("render_camera", "base_camera", "hand_camera")
    config = EnvConfig(robot="panda_wristcam", obs_mode="rgb", cameras=names, image_size=SIZE, reward="dense")
    sim = Sim("PickCube-v1", config, 1, "physx_cpu", "cpu")
    obs, views = sim.reset(0), sim.spec.viewpoints
    assert [key for key, view in views.items() if view.mounted] == ["image.hand_camera"]
    base = sim.base.agent.robot.pose.p[0].numpy()
    place = sim.base.cube.pose.p[0].numpy() - base
    for camera in ("render_camera", "base_camera"):
        red, green, blue = np.moveaxis(obs[f"image.{camera}"][0].numpy().astype(int), -1, 0)
        drawn = middle((red > 2 * green) & (red > 2 * blue) & (red > 60))
        np.testing.assert_allclose(drawn, project(views[f"image.{camera}"], place), atol=2.5)


def test_spec_without_viewpoints_is_read(tabletop):
    """Checkpoints and exports of earlier versions."""
    stored = json.loads(tabletop.spec.model_dump_json())
    assert EnvSpec.model_validate(stored) == tabletop.spec
    del stored["viewpoints"]
    assert EnvSpec.model_validate(stored) == tabletop.spec.model_copy(update={"viewpoints": {}})
    assert spec().viewpoints == {}


def test_viewpoint_reads_the_same_in_the_list_and_in_an_exported_policy(tabletop, capsys):
    view = tabletop.spec.viewpoints["image.wrist"]
    assert described(view.model_dump()) == str(view)
    assert str(view).startswith("-0.120 0.000 -0.110 m from the tool, looking along +0.57 +0.00 +0.82, 70° high")
    assert main(["list", "cameras", "wrist"]) == 0
    out = capsys.readouterr().out
    assert out.count("from the tool") >= 6 and "so101" in out and "front" not in out
