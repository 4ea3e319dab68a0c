"""ManiSkill on the CPU: the vector-environment contract. One environment per set of options: starting one takes seconds."""

import os
import signal
import sys
import time

import pytest
import torch

from rpd.envs.backends.episodic import derive_seed
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, NonFiniteError, WorkerDied
from rpd.envs.maniskill.scene import RAW_DIM, to_scene
from rpd.envs.maniskill.tasks import instruction
from rpd.envs.privileged_state import ManipulationState
from rpd.envs.registry import list_tasks, make, task_info
from rpd.envs.rendering.vulkan import VulkanDevice, render_settings

pytest.importorskip("mani_skill", reason="mani_skill is not installed")


def _no_vulkan() -> str:
    try:
        render_settings()
    except ConfigError as error:
        return str(error)
    return ""


needs_vulkan = [pytest.mark.maniskill, pytest.mark.skipif(bool(_no_vulkan()), reason=_no_vulkan() or "-")]

BASE = torch.tensor([-0.615, 0.0, 0.0])  # where ManiSkill's Panda stands


def _env(task="PushCube-v1", **options):
    return make(f"maniskill/{task}", EnvConfig(**options))


def _column(env, name):
    return env.spec.state_names.index(name)


def _pose(env, obs, name):
    first = _column(env, f"{name}.x")
    return obs["state"][:, first : first + 7]


@pytest.fixture(scope="module")
def env():
    env = _env(num_envs=3, num_workers=2)
    yield env
    env.close()


@pytest.fixture(scope="module")
def short():
    """One environment whose episodes last three steps, with sparse reward."""
    env = _env(num_envs=1, reward="sparse", max_episode_steps=3)
    yield env
    env.close()


def _push(env, obs):
    """Go behind the cube, down, and push it along x: the simplest expert, from the scene in the robot's frame."""
    scene = obs["privileged"]
    tcp, cube = ManipulationState.get(scene, "tcp_pos"), ManipulationState.get(scene, "object_pos")
    behind = cube - torch.tensor([0.07, 0.0, 0.0])
    aside = (tcp - behind)[:, :2].norm(dim=-1, keepdim=True) > 0.02
    up = behind + torch.tensor([0.0, 0.0, 0.12])
    low = tcp[:, 2:] < 0.05
    in_front = (tcp[:, :1] < cube[:, :1]) & ((tcp - cube)[:, 1:2].abs() < 0.02)
    goal = torch.where(low & in_front, cube + torch.tensor([0.05, 0.0, 0.0]), torch.where(aside, up, behind))
    action = torch.zeros(env.num_envs, 7)
    action[:, :3] = (goal - tcp) / 0.05
    action[:, 6] = -1
    return action.clamp(-1, 1)


class TestContract:
    pytestmark = needs_vulkan

    def test_spec(self, env):
        spec = env.spec
        assert spec.task == "maniskill/PushCube-v1"
        assert spec.embodiment.name == "panda" and spec.embodiment.num_joints == 7
        assert spec.action.names == ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
        # ManiSkill multiplies rotations by the *lower* limit: +1 turns by -0.1 rad.
        assert spec.action.scale == (0.1, 0.1, 0.1, -0.1, -0.1, -0.1, 1.0)
        assert spec.action.discrete == (False,) * 6 + (True,)
        assert spec.action.frame == "base"
        assert spec.control_hz == 20 and spec.max_episode_steps == 50
        assert spec.observations["state"].shape == (len(spec.state_names),) == (35,)
        assert len(set(spec.state_names)) == 35
        assert env.instructions == ["push the cube away from the robot base"] * 3

    def test_episode_is_a_function_of_its_seed(self, env, short):
        first = env.reset(7)["state"]
        assert not torch.equal(first[0], first[1])
        assert torch.equal(env.reset(8)["state"][:2], first[1:])
        assert torch.equal(short.reset(9)["state"][0], first[2])

    def test_actions_match_the_spec(self, env):
        start = env.reset(0)
        action = torch.zeros(3, 7)
        action[0, 2], action[1, 5], action[:, 6] = 1.0, 1.0, 1.0
        action[2, 6] = -1.0
        for _ in range(3):
            obs = env.step(action).obs
        rise = (
            ManipulationState.get(obs["privileged"], "tcp_pos")[:, 2]
            - ManipulationState.get(start["privileged"], "tcp_pos")[:, 2]
        )
        assert rise[0] > 0.05 and rise[1].abs() < 0.01
        # The tool's x axis in the robot's frame turns about z by -0.1 rad per step (the drives lag behind a little).
        before, after = (_yaw(ManipulationState.get(o["privileged"], "tcp_quat")[1]) for o in (start, obs))
        assert -0.31 < (after - before + torch.pi) % (2 * torch.pi) - torch.pi < -0.1
        opening = ManipulationState.get(obs["privileged"], "gripper")[:, 0]
        assert opening[0] > 0.95 and opening[2] < 0.6

    def test_scene_is_the_state_in_the_base_frame(self, env):
        obs = env.reset(3)
        scene = obs["privileged"]
        for field, entry in (("tcp", "tcp_pose"), ("object", "obj_pose")):
            pose = _pose(env, obs, entry)
            torch.testing.assert_close(ManipulationState.get(scene, f"{field}_pos") + BASE, pose[:, :3], atol=1e-5, rtol=0)
            torch.testing.assert_close(ManipulationState.get(scene, f"{field}_quat"), pose[:, 3:], atol=1e-5, rtol=0)
        goal = obs["state"][:, _column(env, "goal_pos.x")]
        torch.testing.assert_close(ManipulationState.get(scene, "target_pos")[:, 0] - 0.615, goal, atol=1e-5, rtol=0)
        assert torch.allclose(ManipulationState.get(scene, "target_pos")[:, 2], torch.tensor(0.02), atol=1e-6)
        assert torch.allclose(ManipulationState.get(scene, "object_half_size"), torch.tensor(0.02))

    def test_success_terminates_and_the_next_episode_begins(self, env):
        obs = env.reset(0)
        returns, seen = torch.zeros(3), 0
        for t in range(50):
            out = env.step(_push(env, obs))
            returns += out.reward
            assert (out.reward >= -1).all() and (out.reward <= 0).all()
            done = out.terminated | out.truncated
            assert (out.episode is not None) == bool(done.any())
            if out.episode is not None:
                e = out.episode
                assert torch.equal(e.env, done.nonzero().squeeze(-1))
                torch.testing.assert_close(e.episode_return, returns[e.env])
                for row, i in enumerate(e.env.tolist()):
                    if e.seed[row] != i:  # a later episode
                        continue
                    seen += 1
                    assert out.terminated[i] and e.success_once[row] and e.success_at_end[row] and e.length[row] == t + 1
                    assert out.reward[i] == 0  # the dense reward's best, so that ending is no loss
                    # The last observation has the cube in the goal; the one to act on next has it back at a start.
                    final = ManipulationState.get(out.final_obs["privileged"], "object_pos")[row]
                    target = ManipulationState.get(out.final_obs["privileged"], "target_pos")[row]
                    assert (final - target)[:2].norm() < 0.1
                    fresh = out.obs["privileged"][i : i + 1]
                    gap = ManipulationState.get(fresh, "target_pos") - ManipulationState.get(fresh, "object_pos")
                    torch.testing.assert_close(gap, torch.tensor([[0.2, 0.0, 0.0]]), atol=1e-4, rtol=0)
                returns[e.env] = 0
            obs = out.obs
            if seen == 3:
                return
        pytest.fail(f"only {seen} of 3 pushes arrived")

    def test_time_out_truncates_and_seeds_follow(self, short):
        short.reset(5)
        lengths, seeds = [], []
        for _ in range(6):
            out = short.step(torch.zeros(1, 7))
            assert not out.terminated.any() and out.reward.item() == 0
            if out.truncated.any():
                assert out.final_obs.batch_size == (1,)
                lengths.append(out.episode.length.item())
                seeds.append(out.episode.seed.item())
        assert lengths == [3, 3]
        assert seeds == [5, derive_seed(5, 1)]
        # The episode of a derived seed is the one that this seed begins anywhere.
        assert torch.equal(short.reset(derive_seed(5, 2))["state"], out.obs["state"])

    def test_returned_tensors_stay(self, env):
        obs = env.reset(1)
        copy = obs.clone()
        out = env.step(torch.ones(3, 7))
        reward = out.reward.clone()
        env.step(-torch.ones(3, 7))
        assert torch.equal(obs["state"], copy["state"]) and torch.equal(out.reward, reward)

    def test_restored_state_continues(self, env):
        env.reset(2)
        actions = torch.rand(8, 3, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
        for action in actions[:4]:
            before = env.step(action).obs
        saved = {k: v.clone() for k, v in env.state_dict().items()}
        there = [env.step(action) for action in actions[4:]]
        env.reset(99)
        torch.testing.assert_close(env.load_state_dict(saved)["state"], before["state"], atol=1e-4, rtol=0)
        again = [env.step(action) for action in actions[4:]]
        torch.testing.assert_close(again[-1].obs["state"], there[-1].obs["state"], atol=5e-2, rtol=0)
        assert torch.equal(env.state_dict()["length"], torch.full((3,), 8))
        assert not env.exact_resume

    def test_nan_action_is_refused(self, env):
        env.reset(0)
        action = torch.zeros(3, 7)
        action[1, 0] = float("nan")
        with pytest.raises(NonFiniteError, match="environments 1"):
            env.step(action)


def _yaw(q):
    w, x, y, z = q.tolist()
    return torch.atan2(torch.tensor(2 * (w * z + x * y)), torch.tensor(1 - 2 * (y * y + z * z)))


class TestImages:
    pytestmark = needs_vulkan

    def test_teacher_cameras(self):
        env = _env(num_envs=3, num_workers=2, teacher_cameras=("base_camera",), teacher_image_size=16)
        try:
            assert set(env.reset(0).keys()) == {"state", "privileged"}
            every = env.teacher_images()["view.base_camera"]
            assert every.shape == (3, 16, 16, 3) and every.float().std() > 5
            assert torch.equal(env.teacher_images(torch.tensor([0, 2]))["view.base_camera"], every[[0, 2]])
        finally:
            env.close()
        with pytest.raises(ConfigError, match="make them equal"):
            _env(num_envs=1, obs_mode="rgb", image_size=32, teacher_cameras=("base_camera",), teacher_image_size=16)

    def test_proprioception_and_cameras_only(self):
        env = _env("StackCube-v1", num_envs=1, obs_mode="rgb", cameras=("hand_camera", "render_camera"), image_size=32)
        try:
            obs = env.reset(0)
            assert set(obs.keys()) == {"state", "image.hand_camera", "image.render_camera", "privileged"}
            assert {n.split(".")[0] for n in env.spec.state_names} == {"qpos", "qvel", "tcp_pose"}
            for name in ("image.hand_camera", "image.render_camera"):
                assert obs[name].shape == (1, 32, 32, 3) and obs[name].dtype == torch.uint8
                assert obs[name].float().std() > 5
            out = env.step(torch.full((1, 7), 1.0))
            assert not torch.equal(out.obs["image.hand_camera"], obs["image.hand_camera"])
            assert env.render(size=48).shape == (1, 48, 48, 3)
            assert env.teacher_images() == {}
            # Cubes stand at an angle: object and lower cube, on the table, one half edge up.
            scene = obs["privileged"]
            for field in ("object_pos", "target_pos"):
                torch.testing.assert_close(ManipulationState.get(scene, field)[0, 2], torch.tensor(0.02), atol=1e-3, rtol=0)
            assert (ManipulationState.get(scene, "object_pos") - ManipulationState.get(scene, "target_pos")).norm() > 0.04
        finally:
            env.close()


class TestWorkers:
    pytestmark = needs_vulkan

    def test_killed_worker_is_named(self, short):
        short.reset(0)
        os.kill(short.backend._workers[0].process.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match=r"worker 0 \(environments 0 to 0\) was killed by SIGKILL"):
            short.step(torch.zeros(1, 7))
        short.close()
        short.close()  # twice is allowed

    @pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
    def test_workers_leave_when_the_parent_hangs_up(self, env):
        processes = [worker.process for worker in env.backend._workers]
        for worker in env.backend._workers:  # what the kernel does for a parent that is killed
            worker.pipe.close()
        deadline = time.monotonic() + 20
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [process.poll() for process in processes] == [0, 0]

    def test_unsupported_task_option_is_refused_at_construction(self):
        with pytest.raises(ConfigError, match=r"control mode pd_ee_nothing not in supported modes.*pd_ee_delta_pose"):
            _env(num_envs=1, control_mode="pd_ee_nothing")


class TestInProcess:
    """Single simulations, in this process."""

    pytestmark = needs_vulkan

    @pytest.fixture
    def sims(self, monkeypatch):
        from rpd.envs.maniskill.sim import Sim

        render_backend, variables = render_settings()
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return [Sim("PushCube-v1", EnvConfig(reward="dense"), 1, "physx_cpu", render_backend) for _ in range(2)]

    def test_fast_controller_moves_like_the_original(self, sims):
        from rpd.envs.maniskill import fast_ik

        original, fast = sims
        fast_ik.speed_up(fast.base.agent)
        assert isinstance(fast.base.agent.controller.controllers["arm"], fast_ik.SinglePoseController)
        torch.testing.assert_close(fast.reset(0), original.reset(0))
        generator = torch.Generator().manual_seed(0)
        for _ in range(15):
            action = torch.rand(1, 7, generator=generator) * 2.4 - 1.2  # beyond the limits as well
            action[:, 2] = action[:, 2].abs()  # upwards: contact would amplify rounding errors
            ours, theirs = fast.step(action), original.step(action)
            torch.testing.assert_close(ours.obs["state"], theirs.obs["state"], atol=1e-4, rtol=0)
            torch.testing.assert_close(ours.reward, theirs.reward, atol=1e-4, rtol=0)

    def test_reset_by_environment_draws_the_episode_of_the_seed(self, sims):
        """The way in which a GPU's first episodes begin, here with a simulation of one scene."""
        from rpd.envs.maniskill.gpu import DeviceSim

        plain, by_index = sims
        device_sim = DeviceSim.__new__(DeviceSim)
        device_sim.sim = by_index
        before = torch.random.get_rng_state()
        torch.testing.assert_close(device_sim.reset([0], [11], exact=True), plain.reset(11))
        assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.maniskill
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_actions_mean_the_same_on_a_gpu():
    """The same description of actions, and the same motion of the tool, from physics on the CPU and on a GPU."""

    def moved(backend, device):
        env = make("maniskill/PushCube-v1", EnvConfig(num_envs=2, sim_backend=backend), device)
        try:
            first = env.reset(0)["privileged"].cpu()
            actions = torch.tensor([[0, 0, 0.5, 0, 0, 0, 1.0], [0.2, -0.3, 0.4, 0, 0, 0.5, -1]], device=device)
            for _ in range(5):
                last = env.step(actions).obs["privileged"].cpu()
            turned = torch.stack([_yaw(ManipulationState.get(s, "tcp_quat")[1]) for s in (first, last)]).diff()
            return (
                env.spec,
                ManipulationState.get(last, "tcp_pos") - ManipulationState.get(first, "tcp_pos"),
                turned,
                ManipulationState.get(last, "gripper"),
            )
        finally:
            env.close()

    (cpu, way, turn, grip), (gpu, *there) = moved("cpu", "cpu"), moved("gpu", "cuda")
    assert cpu == gpu
    for here, elsewhere, tolerance in zip((way, turn, grip), there, (5e-3, 2e-2, 5e-2), strict=True):
        torch.testing.assert_close(elsewhere, here, atol=tolerance, rtol=0)


class TestNames:
    def test_listing_does_not_import_maniskill(self):
        names = [task.name for task in list_tasks("maniskill")]
        assert "maniskill/PushCube-v1" in names and "maniskill/PickCube-v1" in names

    def test_unknown_task_names_the_nearest(self):
        with pytest.raises(ConfigError, match=r"unknown task 'maniskill/PushCub-v1'.*maniskill/PushCube-v1"):
            task_info("maniskill/PushCub-v1")

    def test_any_registered_task_is_found(self):
        info = task_info("maniskill/PlaceSphere-v1")
        assert info.robots == ("panda", "fetch") and info.instruction == "place sphere"

    def test_unknown_robot_and_camera(self):
        with pytest.raises(ConfigError, match=r"unknown robot.*'pandas'.*panda"):
            _env(robot="pandas")
        with pytest.raises(ConfigError, match=r"unknown camera.*'base_cam'.*base_camera"):
            _env(obs_mode="rgb", cameras=("base_cam",))

    def test_options_of_other_simulators_are_refused(self):
        with pytest.raises(ConfigError, match=r"env.domain_randomization does not apply to maniskill/"):
            _env(domain_randomization=("mass",))
        with pytest.raises(ConfigError, match="CUDA"):
            _env(sim_backend="gpu")

    def test_missing_extra_names_the_command(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"pip install -e '\.\[maniskill\]'"):
            task_info("maniskill/PushCube-v1")

    def test_name_in_words(self):
        assert instruction("PegInsertionSide-v1") == "insert the peg from the side"
        assert instruction("my_tasks:TurnTheKnob-v2") == "turn the knob"


class TestVulkan:
    def test_old_lavapipe_is_refused_with_the_fix(self, monkeypatch):
        old = VulkanDevice("llvmpipe", "Mesa 22.3.6 (LLVM 15.0.6)", 0x10005, True)
        monkeypatch.setattr("rpd.envs.rendering.vulkan.devices", lambda: [old])
        with pytest.raises(ConfigError, match=r"too old.*22\.3\.6.*bookworm-backports"):
            render_settings()

    def test_no_driver(self, monkeypatch):
        monkeypatch.setattr("rpd.envs.rendering.vulkan.devices", list)
        with pytest.raises(ConfigError, match=r"none is installed.*mesa-vulkan-drivers"):
            render_settings()

    def test_lavapipe_is_chosen_only_where_no_hardware_is(self, monkeypatch):
        lavapipe = VulkanDevice("llvmpipe", "Mesa 25.0.7-2 (LLVM 19)", 0x10005, True)
        radeon = VulkanDevice("AMD Radeon", "Mesa 25.0.7", 0x1002, False)
        nvidia = VulkanDevice("NVIDIA H200", "570.1", 0x10DE, False)
        monkeypatch.setattr("rpd.envs.rendering.vulkan.lavapipe_icd", lambda: "/lvp.json")
        for found, expected in (
            ([lavapipe], ("cpu", {"VK_ICD_FILENAMES": "/lvp.json"})),
            ([radeon, lavapipe], ("cpu", {})),
            ([nvidia], ("gpu", {})),
        ):
            monkeypatch.setattr("rpd.envs.rendering.vulkan.devices", lambda found=found: found)
            monkeypatch.delenv("VK_ICD_FILENAMES", raising=False)
            assert render_settings() == expected
        monkeypatch.setattr("rpd.envs.rendering.vulkan.devices", lambda: [lavapipe])
        monkeypatch.setenv("VK_ICD_FILENAMES", "/mine.json")
        assert render_settings() == ("cpu", {})


def test_scene_in_the_frame_of_a_turned_robot():
    raw = torch.zeros(1, RAW_DIM)
    half = 0.5**0.5
    raw[0, :7] = torch.tensor([1.0, 2.0, 0.0, half, 0.0, 0.0, half])  # turned left by 90 degrees
    raw[0, 7:14] = torch.tensor([1.0, 2.5, 0.3, half, 0.0, 0.0, half])
    raw[0, 14:21] = torch.tensor([0.0, 2.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    raw[0, 21:28] = raw[0, 7:14]
    raw[0, 28:] = torch.tensor([0.25, 1.0, 0.02])
    scene = to_scene(raw)
    torch.testing.assert_close(ManipulationState.get(scene, "tcp_pos")[0], torch.tensor([0.5, 0.0, 0.3]))
    torch.testing.assert_close(ManipulationState.get(scene, "tcp_quat")[0], torch.tensor([1.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(ManipulationState.get(scene, "object_pos")[0], torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(ManipulationState.get(scene, "object_quat")[0], torch.tensor([half, 0.0, 0.0, -half]))
    assert [ManipulationState.get(scene, n).item() for n in ("gripper", "grasped", "ood")] == [0.25, 1.0, 0.0]
