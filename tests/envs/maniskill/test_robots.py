"""ManiSkill's tasks with several robots, from state and from images, in this process: a simulation takes a second to build."""

import os
from pathlib import Path

import pytest
import torch

from rpd.cli.options.train import train_options
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.registry import make, task_info
from rpd.envs.rendering.vulkan import render_settings
from rpd.evaluation.suites import SUITES

pytest.importorskip("mani_skill", reason="mani_skill is not installed")


def _no_vulkan():
    try:
        render_settings()
    except ConfigError as error:
        return str(error)
    return ""


pytestmark = [pytest.mark.maniskill, pytest.mark.skipif(bool(_no_vulkan()), reason=_no_vulkan() or "-")]

POSE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
BASE = ("body_1", "body_2", "body_3", "forward", "turn")


@pytest.fixture(scope="module")
def sim():
    from rpd.envs.maniskill.sim import Sim

    render_backend, variables = render_settings()
    before = dict(os.environ)
    os.environ.update(variables)
    built = []  # the last one that is released takes the compiled shaders with it: ten seconds

    def build(task, **options):
        built.append(Sim(task, EnvConfig(**{"reward": "dense", **options}), 1, "physx_cpu", render_backend))
        return built[-1]

    yield build
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    ("task", "robot", "joints", "names", "cameras"),
    [
        ("PickCube-v1", "panda_wristcam", 7, POSE, ("hand_camera", "render_camera")),
        ("PickCube-v1", "so100", 6, tuple(f"joint_{i}" for i in range(1, 7)), ("base_camera",)),
        ("PushCube-v1", "panda", 7, POSE, ("render_camera",)),
        ("PushCube-v1", "fetch", 13, POSE + BASE, ("fetch_hand", "fetch_head")),
        ("StackCube-v1", "panda", 7, POSE, ("base_camera",)),
        ("StackCube-v1", "fetch", 13, POSE + BASE, ("fetch_hand",)),
    ],
)
@pytest.mark.parametrize("obs", ["state", "rgb"])
def test_tasks_robots_and_observations(sim, task, robot, joints, names, cameras, obs):
    images = {"obs_mode": "rgb", "cameras": cameras, "image_size": 24} if obs == "rgb" else {}
    one = sim(task, robot=robot, **images)
    spec, first = one.spec, one.reset(3)
    assert (spec.embodiment.name, spec.embodiment.num_joints, spec.action.names) == (robot, joints, names)
    assert {f"image.{c}" for c in images.get("cameras", ())} == {k for k in first if k.startswith("image.")}
    assert all(v.shape == (1, 24, 24, 3) and v.float().std() > 5 for k, v in first.items() if k.startswith("image."))
    assert first["state"].shape == (1, len(spec.state_names)) and len(set(spec.state_names)) == len(spec.state_names)
    for _ in range(3):
        out = one.step(torch.full((1, len(names)), 0.5))
    assert torch.isfinite(out.obs["state"]).all() and -1 <= out.reward.item() <= 0 and not out.success.item()
    tcp = [spec.state_names.index(f"tcp_pose.{axis}") for axis in "xyz"]
    assert (out.obs["state"] - first["state"])[0, tcp].norm() > 0.01  # it moves
    for key in (k for k in first if k.startswith("image.")):
        assert not torch.equal(out.obs[key], first[key])


@pytest.mark.slow
@pytest.mark.parametrize("task", SUITES["rpd-maniskill"].tasks)
def test_rpd_experiments_can_be_built(sim, task):
    args = [task, "--config", "configs/experiments/rpd/maniskill.yaml", "--algorithm", "ppo"]
    env = train_options(args).env.model_copy(update=SUITES["rpd-maniskill"].env)
    # Cameras are looked for, but nothing is drawn.
    seen = {"obs_mode": "state", "cameras": None, "image_size": None, "teacher_cameras": env.cameras, "teacher_image_size": 256}
    one = sim(task.removeprefix("maniskill/"), **env.model_copy(update=seen).model_dump())
    assert one.spec.embodiment.name == task_info(task).robots[0] and one.view_shapes == {"view.render_camera": (256, 256, 3)}
    names = one.spec.action.names
    assert names == (POSE if one.spec.embodiment.name != "panda_stick" else POSE[:-1])
    assert not one.step(torch.zeros(1, len(names))).success.item()


def test_units_are_those_of_the_joints(sim):
    action = sim("PickCube-v1", robot="fetch", control_mode="pd_joint_delta_pos").spec.action
    assert action.units == ("rad",) * 7 + ("open", "rad", "rad", "m", "m/s", "rad/s")
    assert action.scale[-2:] == (1.0, 3.14)
    assert sim("PushCube-v1", control_mode="pd_joint_vel").spec.action.units == ("rad/s",) * 7 + ("open",)


def test_bounds_of_a_controller_become_plus_and_minus_one(sim):
    one = sim("PushCube-v1", control_mode="pd_joint_pos")
    limits = one.base.agent.robot.get_qlimits()[0, :7]
    one.reset(0)
    middle = torch.zeros(1, 8)
    for _ in range(60):
        one.step(middle)
    torch.testing.assert_close(one.base.agent.robot.get_qpos()[0, 4:7], limits[4:].mean(1), atol=0.05, rtol=0)


def test_fetch_moves_with_the_fast_controller_as_with_the_original(sim):
    from rpd.envs.maniskill import fast_ik

    original, fast = (sim("PushCube-v1", robot="fetch") for _ in range(2))
    fast_ik.speed_up(fast.base.agent)
    assert isinstance(fast.base.agent.controller.controllers["arm"], fast_ik.SinglePoseController)
    torch.testing.assert_close(fast.reset(1), original.reset(1))
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        action = torch.rand(1, 12, generator=generator) * 2 - 1
        torch.testing.assert_close(fast.step(action).obs["state"], original.step(action).obs["state"], atol=1e-4, rtol=0)


def test_reconfigured_scenes_depend_on_seed_only(sim):
    """Evaluation with `reconfigure`: pegs have sizes of their own, drawn from the episode's seed."""
    from rpd.envs.maniskill.gpu import DeviceSim

    def sizes(one):
        return one.base.peg_half_sizes.clone()

    anew, plain = (sim("PegInsertionSide-v1", reconfigure=again) for again in (True, None))
    first = anew.reset(7)["state"]
    peg = sizes(anew)
    anew.reset(8)
    assert not torch.equal(sizes(anew), peg)
    torch.testing.assert_close(anew.reset(7)["state"], first)
    torch.testing.assert_close(plain.reset(7)["state"], first)  # with one scene, ManiSkill rebuilds this task's by itself
    assert torch.equal(sizes(anew), peg)
    device_sim = DeviceSim.__new__(DeviceSim)  # the way of a GPU, with one scene
    device_sim.sim, device_sim.num_envs = sim("PushCube-v1", reconfigure=True), 1
    scene = device_sim.sim.base.scene
    torch.testing.assert_close(device_sim.reset([0], [7], exact=True), sim("PushCube-v1").reset(7))
    assert device_sim.sim.base.scene is not scene


@pytest.mark.parametrize("robot", ["xarm6_robotiq", "widowxai"])
def test_robot_that_has_to_be_downloaded(sim, robot):
    from mani_skill.agents.registration import REGISTERED_AGENTS

    if not Path(REGISTERED_AGENTS[robot].agent_cls.urdf_path).exists():
        with pytest.raises(ConfigError, match=rf"^'{robot}' needs files: python -m mani_skill.utils.download_asset {robot}$"):
            sim("PickCube-v1", robot=robot)
        return
    one = sim("PickCube-v1", robot=robot)
    assert one.spec.embodiment.name == robot
    assert torch.isfinite(one.step(torch.zeros(1, one.spec.action.dim)).obs["state"]).all()


def test_incompatible_options_give_one_line(sim):
    for options, message in (
        ({"robot": "so100"}, r"unknown robot for maniskill/PushCube-v1 'so100': valid: fetch, panda, panda_wristcam"),
        ({"obs_mode": "rgb", "cameras": ("wrist",)}, r"unknown camera for maniskill/PushCube-v1 'wrist': valid: .*hand_camera"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            make("maniskill/PushCube-v1", EnvConfig(num_envs=1, **options))
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"control mode pd_ee_twist not in supported modes: \['pd_joint_delta_pos'"):
        sim("PushCube-v1", control_mode="pd_ee_twist")
    with pytest.raises(ConfigError, match=r"unknown camera for maniskill/PushCube-v1 'fetch_hand': valid: base_camera, "):
        sim("PushCube-v1", obs_mode="rgb", cameras=("fetch_hand",))
    assert task_info("maniskill/PlugCharger-v1").reward == "sparse"
