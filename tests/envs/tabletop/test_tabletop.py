"""The vector-environment contract on the tabletop: episodes, rewards, specs, exact save and restore, faults."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.errors import NonFiniteError
from rpd.envs.privileged_state import ManipulationState
from rpd.envs.robots import ROBOTS
from rpd.envs.tabletop.env import TabletopEnv
from rpd.envs.tabletop.tasks import COLORS, TASKS
from rpd.envs.vector_env import Step
from rpd.teachers import registry as teachers

CAMERAS = ("front", "wrist")
EVERYTHING = ("all",)


def make(task: str = "PickCube", **options) -> TabletopEnv:
    images = {"image_size": 16, "cameras": CAMERAS} if options.get("obs_mode") == "rgb" else {}
    given = {"num_envs": 4, **images, **options}
    env = registry.make(f"tabletop/{task}", EnvConfig(**given), num_threads=1)
    assert isinstance(env, TabletopEnv)
    return env


def actions(steps: int, n: int, seed: int = 0) -> torch.Tensor:
    """Random commands [steps, n, 7] that last for a few steps, so that the arm gets somewhere."""
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(-(-steps // 4), n, 7, generator=rng) * 2 - 1).repeat_interleave(4, dim=0)[:steps]


def equal(a: TensorDict, b: TensorDict) -> bool:
    assert set(a.keys()) == set(b.keys())
    return all(torch.equal(a[key], b[key]) for key in a.keys())  # noqa: SIM118  (a TensorDict iterates over rows)


def clone(step: Step) -> Step:
    return Step(
        step.obs.clone(), step.reward.clone(), step.terminated.clone(), step.truncated.clone(),
        None if step.final_obs is None else step.final_obs.clone(), step.episode,
    )  # fmt: skip


# Specs ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("robot", ROBOTS)
@pytest.mark.parametrize("task", TASKS)
def test_tensors_match_the_spec(task, robot):
    for mode in ("state", "rgb"):
        env = make(task, robot=robot, obs_mode=mode, num_envs=2)
        spec = env.spec
        obs = env.reset(0)
        step = env.step(actions(1, 2)[0])
        for seen in (obs, step.obs):
            assert seen.batch_size == (2,)
            assert set(seen.keys()) == {*spec.observations, "privileged"}
            for key, expected in spec.observations.items():
                assert seen[key].shape == (2, *expected.shape)
                assert str(seen[key].dtype) == f"torch.{expected.dtype}"
            assert seen["privileged"].shape == (2, ManipulationState.dim) and seen["privileged"].dtype == torch.float32
        assert len(spec.state_names) == len(set(spec.state_names)) == spec.observations["state"].shape[0]
        assert any(name.startswith("object.") for name in spec.state_names) == (mode == "state")
        assert ("goal.tcp_dx" in spec.state_names) == (mode == "state" or task in ("Reach", "PickCube"))
        assert [step.reward.dtype, step.terminated.dtype, step.truncated.dtype] == [torch.float32, torch.bool, torch.bool]
        assert step.reward.shape == step.terminated.shape == step.truncated.shape == (2,)
        assert (spec.task, spec.embodiment.name, spec.control_hz, spec.action.dim) == (f"tabletop/{task}", robot, 20, 7)
        assert spec.max_episode_steps == TASKS[task].max_steps * (2 if robot == "ur5e_slow" else 1) and spec.scene
        assert len(env.instructions) == 2
        env.close(), env.close()


@pytest.mark.parametrize("robot", ROBOTS)
def test_privileged_state_matches_mujoco(robot):
    env = make("StackCube", robot=robot)
    env.reset(5)
    for action in actions(8, 4):
        obs = env.step(action).obs
    scene, world, batch = obs["privileged"], env._world, env._batch
    site, rotation = batch.bind("site_xpos"), batch.bind("site_xmat")
    position, quat = batch.bind("xpos"), batch.bind("xquat")
    pads = [world.model.geom(name).id for name in ROBOTS[robot].finger_geoms]
    thickness = 2 * world.model.geom_size[pads[0], 1]
    place = batch.bind("geom_xpos")
    batch.forward()
    for name, body in (("object", "object"), ("target", "target")):
        index = world.model.body(body).id
        np.testing.assert_allclose(ManipulationState.get(scene, f"{name}_pos"), position[:, index], atol=1e-6)
        np.testing.assert_allclose(ManipulationState.get(scene, f"{name}_quat"), quat[:, index], atol=1e-6)
    np.testing.assert_allclose(ManipulationState.get(scene, "tcp_pos"), site[:, world.tcp], atol=1e-6)
    w, x, y, z = ManipulationState.get(scene, "tcp_quat").double().numpy().T
    tool = np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], axis=1)  # third column
    np.testing.assert_allclose(tool, rotation[:, world.tcp].reshape(-1, 3, 3)[:, :, 2], atol=1e-6)
    gap = np.linalg.norm(place[:, pads[0]] - place[:, pads[1]], axis=1) - thickness
    np.testing.assert_allclose(ManipulationState.get(scene, "gripper")[:, 0], gap / env.robot.opening, atol=1e-5)
    assert (ManipulationState.get(scene, "object_half_size") == env.robot.cube_half_size).all()
    assert not ManipulationState.get(scene, "ood").any()


def test_state_entries_match_their_names():
    env = make()
    env.reset(1)
    for action in actions(5, 4):
        obs = env.step(action).obs
    state, scene = obs["state"], obs["privileged"]
    column = {name: state[:, i] for i, name in enumerate(env.spec.state_names)}
    world = env._world
    for i, joint in enumerate(env.robot.joints):
        np.testing.assert_allclose(column[f"q.{joint}"], env._now.qpos[:, world.arm[i]], atol=1e-6)
        np.testing.assert_allclose(column[f"dq.{joint}"], env._now.qvel[:, world.arm_dofs[i]], atol=1e-5)
    tcp, cube, goal = (ManipulationState.get(scene, name) for name in ("tcp_pos", "object_pos", "target_pos"))
    for i, axis in enumerate("xyz"):
        torch.testing.assert_close(column[f"tcp.{axis}"], tcp[:, i])
        torch.testing.assert_close(column[f"object.d{axis}"], 20 * (cube - tcp)[:, i], atol=1e-6, rtol=0)
        torch.testing.assert_close(column[f"goal.d{axis}"], 20 * (goal - cube)[:, i], atol=1e-6, rtol=0)
        torch.testing.assert_close(column[f"goal.tcp_d{axis}"], 20 * (goal - tcp)[:, i], atol=1e-6, rtol=0)
    torch.testing.assert_close(column["object.cos4"] ** 2 + column["object.sin4"] ** 2, torch.ones(4))
    torch.testing.assert_close(column["gripper"], ManipulationState.get(scene, "gripper")[:, 0])


# Episodes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "options"),
    [("PickCube", {}), ("StackCube", {"domain_randomization": EVERYTHING}), ("Reach", {"robot": "so101"}), ("PushT", {})],
)
def test_first_episode_depends_on_its_seed_alone(task, options):
    many, one = make(task, num_envs=6, obs_mode="rgb", **options), make(task, num_envs=1, obs_mode="rgb", **options)
    first = many.reset(10)
    assert not torch.equal(first["privileged"][0], first["privileged"][1])
    commands = actions(10, 6)
    steps = [many.step(c) for c in commands]
    many.reset(3)
    alone = one.reset(14)
    assert equal(alone, first[4:5])
    for command, step in zip(commands, steps, strict=True):
        if step.terminated[4]:
            break
        got = one.step(command[4:5])
        assert equal(got.obs, step.obs[4:5]) and torch.equal(got.reward, step.reward[4:5])
    assert equal(many.reset(10), first)  # whatever happened before


def test_later_episode_equals_first_episode_of_its_seed():
    options = {"obs_mode": "rgb", "max_episode_steps": 5, "domain_randomization": EVERYTHING}
    env, fresh = make(num_envs=3, **options), make(num_envs=1, **options)
    env.reset(0)
    commands = actions(9, 3, seed=1)
    for command in commands[:5]:
        step = env.step(command)
    assert step.truncated.all()
    first = fresh.reset(int(env.state_dict()["seed"][1]))
    assert equal(first, step.obs[1:2])
    for command in commands[5:]:  # no command, delay or speed of the episode before is left
        step, alone = env.step(command), fresh.step(command[1:2])
        assert torch.equal(alone.reward, step.reward[1:2])
        if alone.episode is None:
            assert equal(alone.obs, step.obs[1:2])


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["dense", "sparse"])
def test_episodes_end_reset_and_are_counted(reward):
    n, limit = 16, 9
    env = make("Reach", num_envs=n, max_episode_steps=limit, reward=reward)
    obs = env.reset(0)
    ret, length, seed = torch.zeros(n), torch.zeros(n, dtype=torch.int64), torch.arange(n)
    ends = {"terminated": 0, "truncated": 0}
    for t in range(40):
        scene = obs["privileged"]
        action = torch.zeros(n, 7)  # half of them go to the ball
        action[::2, :3] = (
            (ManipulationState.get(scene, "target_pos") - ManipulationState.get(scene, "tcp_pos"))[::2]
            / env.robot.max_delta_pos
            * 0.4
        )
        step = env.step(action)
        ret, length = ret + step.reward, length + 1
        ended = (step.terminated | step.truncated).nonzero()[:, 0]
        assert not (step.terminated & step.truncated).any()
        assert torch.equal(step.truncated, (length == limit) & ~step.terminated)
        if reward == "sparse":
            assert torch.equal(step.reward, step.terminated.float())
        else:
            assert (step.reward[step.terminated] == 0).all()
            assert (step.reward[~step.terminated] < 0).all() and (step.reward >= -1).all()
        if len(ended) == 0:
            assert step.episode is None and step.final_obs is None
            obs = step.obs
            continue
        episode, final = step.episode, step.final_obs
        assert episode is not None and final is not None
        assert torch.equal(episode.env, ended)
        torch.testing.assert_close(episode.episode_return, ret[ended], atol=1e-5, rtol=0)
        assert torch.equal(episode.length, length[ended])
        assert torch.equal(episode.success_at_end, step.terminated[ended])
        assert torch.equal(episode.success_once, step.terminated[ended])
        if t < limit:
            assert torch.equal(episode.seed[seed[ended] < n], ended[seed[ended] < n])
        # The last observation is of the old episode (same ball, arm near it), the next of a new one (arm at home).
        assert torch.equal(
            ManipulationState.get(final["privileged"], "target_pos"), ManipulationState.get(scene, "target_pos")[ended]
        )
        lag = (ManipulationState.get(final["privileged"], "tcp_pos") - ManipulationState.get(scene, "tcp_pos")[ended]).norm(
            dim=1
        )
        assert (lag < 2.5 * env.robot.max_delta_pos).all()
        near = (
            ManipulationState.get(final["privileged"], "target_pos") - ManipulationState.get(final["privileged"], "tcp_pos")
        ).norm(dim=1) < 0.025
        assert torch.equal(near, step.terminated[ended])
        for row in ended.tolist():
            again = make("Reach", num_envs=1).reset(int(env.state_dict()["seed"][row]))
            assert torch.equal(again["privileged"][0], step.obs["privileged"][row])
        ends["terminated"] += int(step.terminated.sum())
        ends["truncated"] += int(step.truncated.sum())
        ret[ended], length[ended], seed[ended] = 0, 0, env.state_dict()["seed"][ended]
        obs = step.obs
    assert min(ends.values()) >= 8


def test_staggering_spreads_the_first_resets_only():
    env = make(num_envs=64)
    env.reset(0, random_start_length=True)
    first = env.state_dict()["limit"]
    assert first.min() >= 1 and first.max() <= 50 and len(first.unique()) > 25
    lengths: dict[int, list[int]] = {i: [] for i in range(64)}
    for _ in range(60):
        step = env.step(torch.zeros(64, 7))
        if step.episode is not None:
            for i, length in zip(step.episode.env.tolist(), step.episode.length.tolist(), strict=True):
                lengths[i].append(length)
    assert [seen[0] for seen in lengths.values()] == first.tolist()
    assert {n for seen in lengths.values() for n in seen[1:]} <= {50}
    env.reset(0)
    assert (env.state_dict()["limit"] == 50).all()


def test_returned_tensors_are_not_overwritten():
    env = make("PushCube", obs_mode="rgb", max_episode_steps=3)
    obs = env.reset(0)
    copy = obs.clone()
    steps, copies = [], []
    for action in actions(7, 4):
        steps.append(env.step(action))
        copies.append(clone(steps[-1]))
    env.reset(9)
    assert equal(obs, copy)
    for a, b in zip(steps, copies, strict=True):
        assert equal(a.obs, b.obs) and torch.equal(a.reward, b.reward)
        assert torch.equal(a.terminated, b.terminated) and torch.equal(a.truncated, b.truncated)
        assert a.final_obs is None or equal(a.final_obs, b.final_obs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("PickCube", {"domain_randomization": ("all",)}),
        ("StackCube", {"robot": "so101"}),
        ("PlaceInBin", {"robot": "ur5e", "domain_randomization": ("mass", "friction", "delay")}),
        ("PushCube", {"robot": "xarm6", "domain_randomization": ("all",)}),
    ],
)
def test_restored_batch_continues_bit_for_bit(task, options):
    one, two = (make(task, num_envs=6, obs_mode="rgb", max_episode_steps=25, **options) for _ in range(2))
    assert one.exact_resume
    last = one.reset(0, random_start_length=True)
    two.reset(77)
    expert = teachers.make("scripted:noise=0.3", one.spec)  # to where things are touched, held and let go
    for _ in range(15):
        last = one.step(expert.act(last, one.instructions)).obs
    state = {name: value.clone() for name, value in one.state_dict().items()}
    two.step(torch.ones(6, 7))
    assert equal(two.load_state_dict(state), last)
    assert two.instructions == one.instructions
    ends = 0
    for _ in range(60):
        command = expert.act(last, one.instructions)
        a, b = one.step(command), two.step(command)
        assert equal(a.obs, b.obs) and torch.equal(a.reward, b.reward)
        assert torch.equal(a.terminated, b.terminated) and torch.equal(a.truncated, b.truncated)
        if a.episode is not None:
            assert b.episode is not None and a.final_obs is not None and b.final_obs is not None
            said = [{k: v.tolist() for k, v in vars(x).items() if v is not None} for x in (a.episode, b.episode)]
            assert said[0] == said[1]
            assert equal(a.final_obs, b.final_obs)
            ends += len(a.episode.env)
        last = a.obs
    assert ends >= 12
    assert one.instructions == two.instructions
    assert torch.equal(one.render([0], size=32), two.render([0], size=32))
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


# What is asked, and where things lie --------------------------------------------------------------------------------


def named_geoms(env: TabletopEnv) -> list[np.ndarray]:
    geoms = [env._world.object_geoms] if env.task.has_object else []
    return [*geoms, env._world.target_geoms] if env.task.marker == "cube" else geoms


def nearest(color: torch.Tensor) -> int:
    return int((torch.tensor(list(COLORS.values())) - color).norm(dim=1).argmin())


@pytest.mark.parametrize("task", TASKS)
def test_instructions_vary_and_name_visible_colors(task):
    env = make(task, num_envs=100)
    env.reset(0)
    state, names = env.state_dict(), list(COLORS)
    templates = set()
    for i, instruction in enumerate(env.instructions):
        words = [word for word in instruction.split() if word in names]
        seen = [names[nearest(state["colors"][i, geoms[0]])] for geoms in named_geoms(env)]
        assert words == seen
        assert len(set(words)) == len(words)
        templates.add(" ".join("{}" if word in names else word for word in instruction.split()))
    assert len(templates) == len(TASKS[task].phrases) >= 3
    if TASKS[task].has_object:
        assert len(state["names"][:, 1].unique()) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("robot", ROBOTS)
@pytest.mark.parametrize("task", TASKS)
def test_episodes_begin_unsolved_within_reach_and_at_rest(task, robot):
    env = make(task, robot=robot, num_envs=200)
    scene = env.reset(0)["privileged"]
    low, high = (torch.tensor(corner) for corner in env.robot.workspace)
    for name in ("object_pos", "target_pos"):
        place = ManipulationState.get(scene, name)
        assert (place[:, :2] >= low - 0.02).all() and (place[:, :2] <= high + 0.02).all()
        assert (place[:, 2] >= 0).all() and (place[:, 2] <= env.robot.max_height + 1e-6).all()
    frame = env._now.frame(np.zeros(200))
    if task != "Reach":  # whose ball may be where the hand begins; a goal in the air may be near a small cube
        assert env.task.success(frame).mean() <= 0.02
    assert (env.task.reward(frame) >= 0).all() and (env.task.reward(frame) <= 1).all()
    step = env.step(torch.cat([torch.zeros(200, 6), torch.ones(200, 1)], dim=1))
    if env.task.has_object:  # things lie still: nothing starts inside anything else
        moved = ManipulationState.get(step.obs["privileged"], "object_pos") - ManipulationState.get(scene, "object_pos")
        assert moved[~step.terminated].norm(dim=1).max() < 2e-3


# Trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_action_that_is_not_finite_is_refused(value):
    env = make()
    env.reset(0)
    action = torch.zeros(4, 7)
    action[2, 3] = value
    with pytest.raises(NonFiniteError, match=r"policy.*environment 2") as error:
        env.step(action)
    assert error.value.source == "policy"


@pytest.mark.parametrize("bad", [np.nan, 1e9])
@pytest.mark.parametrize("field", ["qpos", "qvel"])
def test_non_finite_simulation_is_reported(field, bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log where it runs
    env = make()
    env.reset(0)
    monkeypatch.setattr(env._batch, "step", lambda **_: None)
    getattr(env._now, field)[1, 0] = bad
    with pytest.raises(NonFiniteError, match=r"tabletop/PickCube.*\[1\]") as error:
        env.step(torch.zeros(4, 7))
    assert error.value.source == "environment"


def test_actions_are_clipped():
    one, two = make(), make()
    one.reset(0), two.reset(0)
    action = torch.full((4, 7), 5.0)
    assert equal(one.step(action).obs, two.step(action.clamp(-1, 1)).obs)


def test_teacher_images_are_separate_from_the_observation():
    env = make("PickCube", teacher_cameras=("front",), teacher_image_size=24)
    obs = env.reset(3)
    assert set(obs.keys()) == {"state", "privileged"} == set(env.spec.observations) | {"privileged"}
    view = env.teacher_images()["view.front"]
    assert view.shape == (4, 24, 24, 3)
    assert torch.equal(env.teacher_images(torch.tensor([1, 3]))["view.front"], view[[1, 3]])
    watched = make("PickCube", obs_mode="rgb", image_size=24, cameras=("front",))
    assert torch.equal(watched.reset(3)["image.front"], view)
    before = view
    env.step(actions(1, 4)[0])
    assert not torch.equal(env.teacher_images()["view.front"], before)


def test_camera_that_the_student_has_is_not_rendered_twice():
    same = make("PickCube", obs_mode="rgb", teacher_cameras=("front", "side"))
    assert set(same.teacher_images()) == {"view.side"}
    larger = make("PickCube", obs_mode="rgb", teacher_cameras=("front",), teacher_image_size=32)
    larger.reset(0)
    assert larger.teacher_images()["view.front"].shape == (4, 32, 32, 3)
    assert make("PickCube").teacher_images() == {}


def test_only_simulator_units_are_scaled():
    def scaled(env):
        return [n for n, yes in zip(env.spec.state_names, env.spec.state_scaled, strict=True) if yes]

    everything = scaled(make("PickCube"))
    assert everything[:2] == ["touch.left", "touch.right"] and {n.split(".")[0] for n in everything} == {
        "touch",
        "object",
        "goal",
    }
    assert scaled(make("PickCube", obs_mode="rgb")) == ["goal.tcp_dx", "goal.tcp_dy", "goal.tcp_dz"]
    env = make("PickCube")
    obs = env.reset(0)
    way = ManipulationState.get(obs["privileged"], "object_pos") - ManipulationState.get(obs["privileged"], "tcp_pos")
    first = env.spec.state_names.index("object.dx")
    torch.testing.assert_close(obs["state"][:, first : first + 3], 20 * way)
