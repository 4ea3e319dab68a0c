"""Scripted teachers: geometry of the experts in a kinematic world, statistics of the errors, determinism."""

from __future__ import annotations

import math
import re

import pytest
import torch
from tensordict import TensorDict

from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.envs.privileged_state import ManipulationState
from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec
from rpd.teachers.scripted import ScriptedTeacher, expert, from_string
from rpd.teachers.scripted.expert_errors import ExpertErrors, per_episode_uniform, perceived_state
from rpd.teachers.scripted.experts import EXPERTS
from rpd.teachers.scripted.grasp import face_turn, pick
from rpd.teachers.scripted.plan import APPROACH, CARRY, DESCEND, GRASP, View, axes

HALF = 0.02
ACTION = ActionSpec(
    names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
    units=("m", "m", "m", "rad", "rad", "rad", "1"),
    scale=(0.05, 0.05, 0.05, 0.2, 0.2, 0.2, 1.0),
    discrete=(False,) * 6 + (True,),
)


def make_spec(task: str = "tabletop/PickCube", **changes) -> EnvSpec:
    spec = EnvSpec(
        task=task,
        embodiment=Embodiment(name="panda", num_joints=7, descriptor={}),
        observations={},
        state_names=(),
        action=ACTION,
        control_hz=20,
        max_episode_steps=50,
        reward="dense",
        scene=True,
    )
    return spec.model_copy(update=changes)


def quat_mul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    (aw, ax, ay, az), (bw, bx, by, bz) = a.unbind(-1), b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def about_z(yaw: torch.Tensor) -> torch.Tensor:
    zero = torch.zeros_like(yaw)
    return torch.stack([(yaw / 2).cos(), zero, zero, (yaw / 2).sin()], -1)


def about(rotvec: torch.Tensor) -> torch.Tensor:
    angle = rotvec.norm(dim=-1, keepdim=True)
    return torch.cat([(angle / 2).cos(), rotvec / angle.clamp(min=1e-9) * (angle / 2).sin()], -1)


def down(yaw: torch.Tensor) -> torch.Tensor:
    """Tool pointing down, turned by yaw about the base's z."""
    return quat_mul(about_z(yaw), torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(len(yaw), 4))


def scenes(n: int, task: str, seed: int = 0) -> torch.Tensor:
    """Random initial scenes [n, ManipulationState.dim] of a task."""
    g = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=g)

    scene = ManipulationState.empty(n)
    put = {name: ManipulationState.get(scene, name) for name in ManipulationState.fields}
    put["tcp_pos"][:] = torch.tensor([0.5, 0.0, 0.2]) + uniform(-0.02, 0.02, 3)
    put["tcp_quat"][:] = down(uniform(-0.3, 0.3))
    put["gripper"][:] = 1
    put["object_half_size"][:] = HALF
    put["object_pos"][:] = torch.cat([uniform(0.45, 0.55, 1), uniform(-0.1, 0.1, 1), torch.full((n, 1), HALF)], -1)
    put["object_quat"][:] = about_z(uniform(-3, 3))
    put["target_quat"][:, 0] = 1
    target = put["target_pos"]
    if task in ("PushCube", "PullCube"):
        target[:] = put["object_pos"] + torch.tensor([0.13 if task == "PushCube" else -0.13, 0.0, 0.0])
        target[:, 1] += uniform(-0.02, 0.02)
    elif task in ("Reach", "PickCube"):
        target[:] = torch.cat([uniform(0.4, 0.6, 1), uniform(-0.1, 0.1, 1), uniform(0.05, 0.25, 1)], -1)
    else:
        target[:] = put["object_pos"] + torch.tensor([0.0, 0.15, 0.0])
    return scene


def step(scene: torch.Tensor, action: torch.Tensor, pushing: bool) -> torch.Tensor:
    """A kinematic world: the tcp follows at once, fingers take three steps, a grasped cube moves along, others fall."""
    scene = scene.clone()
    get = {name: ManipulationState.get(scene, name) for name in ManipulationState.fields}
    delta = action.clamp(-1, 1) * torch.tensor(ACTION.scale)
    before = get["tcp_pos"].clone()
    get["tcp_pos"] += delta[:, :3]
    get["tcp_pos"][:, 2].clamp_(min=0.005)
    get["tcp_quat"][:] = quat_mul(about(delta[:, 3:6]), get["tcp_quat"])
    carried = (get["grasped"] > 0.5) & (action[:, 6:] < 0)
    get["object_pos"] += (get["tcp_pos"] - before) * carried
    offset = get["object_pos"] - get["tcp_pos"]
    fingers = axes(get["tcp_quat"])[:, 1]
    between = (offset * fingers).sum(-1).abs() < 0.03
    inside = between & (offset.norm(dim=-1) < 0.03) & (face_turn(View(scene)).abs() < 0.3)
    get["gripper"] += (action[:, 6:].sign() * 0.3).clamp(-1, 1)
    get["gripper"].clamp_(0, 1)
    get["gripper"][:] = torch.where(inside[:, None], get["gripper"].clamp(min=0.5), get["gripper"])
    held = inside & (get["gripper"][:, 0] <= 0.5)
    get["grasped"][:, 0] = held.float()
    if pushing:  # a closed gripper at the cube's height keeps a contact distance along x
        gap = get["object_pos"][:, 0] - get["tcp_pos"][:, 0]
        touch = HALF + 0.01
        hit = (gap.abs() < touch) & (offset[:, 1].abs() < HALF) & (offset[:, 2].abs() < HALF)
        shift = torch.where((before[:, 0] < get["object_pos"][:, 0]), touch - gap, -touch - gap)
        get["object_pos"][:, 0] += shift * hit
    floor = torch.full_like(held, HALF, dtype=torch.float32)
    over = (get["object_pos"] - get["target_pos"])[:, :2].norm(dim=-1) < HALF
    stacked = over & (get["object_pos"][:, 2] > get["target_pos"][:, 2] + HALF)
    support = torch.where(stacked, get["target_pos"][:, 2] + 2 * HALF, floor)
    z = get["object_pos"][:, 2]
    z[:] = torch.where(held, z, torch.maximum(torch.minimum(support, z), z - 0.05))
    return scene


def solved(task: str, scene: torch.Tensor) -> torch.Tensor:
    get = {name: ManipulationState.get(scene, name) for name in ManipulationState.fields}
    offset = get["object_pos"] - get["target_pos"]
    free = get["grasped"][:, 0] < 0.5
    if task == "Reach":
        return (get["tcp_pos"] - get["target_pos"]).norm(dim=-1) < 0.01
    if task in ("PushCube", "PullCube"):
        return offset[:, :2].norm(dim=-1) < 0.03
    if task == "PickCube":
        return offset.norm(dim=-1) < 0.01
    if task == "StackCube":
        return (offset[:, :2].norm(dim=-1) < HALF) & ((offset[:, 2] - 2 * HALF).abs() < 0.006) & free
    return (offset[:, :2].norm(dim=-1) < 0.05) & free & (get["gripper"][:, 0] > 0.5)


@pytest.mark.parametrize("task", [task for task in EXPERTS if task != "PushT"])  # its world is a simulator's
def test_expert_solves_a_kinematic_world(task: str) -> None:
    if task == "StackCube":  # the lower cube carries: see `support`
        assert (ManipulationState.get(scenes(1, task), "target_pos")[:, 2] == HALF).all()
    scene = scenes(64, task)
    for _ in range(60):
        action = expert(task, scene, ACTION)
        assert action.shape == (64, 7)
        assert action.abs().max() <= 1
        scene = step(scene, action, pushing=task in ("PushCube", "PullCube"))
    assert solved(task, scene).float().mean() >= 0.95


def test_phases_of_a_pick() -> None:
    scene = scenes(1, "PickCube")
    get = {name: ManipulationState.get(scene, name) for name in ManipulationState.fields}
    get["tcp_quat"][:] = down(torch.zeros(1))
    get["object_quat"][:] = about_z(torch.zeros(1))
    here = get["object_pos"]

    def at(x: float, z: float, gripper: float = 1.0, grasped: float = 0.0):
        get["tcp_pos"][:] = here + torch.tensor([x, 0.0, z])
        get["gripper"][:], get["grasped"][:] = gripper, grasped
        plan = pick(View(scene))
        return int(plan.phase), bool(plan.open), plan.move[0]

    phase, is_open, move = at(0.1, 0.1)
    assert (phase, is_open) == (APPROACH, True)
    assert move[0] == pytest.approx(-0.1, abs=1e-6)
    assert at(0.0, 0.05)[:2] == (DESCEND, True)
    phase, is_open, move = at(0.05, 0.0)  # beside the cube: up first, not through it
    assert (phase, is_open) == (APPROACH, True)
    assert move[0] == 0 and move[2] > 0.05
    assert at(0.0, 0.0)[:2] == (GRASP, False)
    assert at(0.018, 0.0)[:2] == (DESCEND, True)
    assert at(0.018, 0.0, gripper=0.7)[:2] == (GRASP, False)  # closing has begun: no chattering
    assert at(0.0, 0.0, gripper=0.0)[1]  # closed on nothing: open again
    phase, is_open, move = at(0.0, 0.0, 0.5, 1.0)
    assert (phase, is_open) == (CARRY, False)
    torch.testing.assert_close(move, (get["target_pos"] - here)[0])


def test_fingers_align_with_the_nearest_face() -> None:
    yaw = torch.tensor([0.0, 0.3, math.radians(80), math.radians(100), math.pi, -0.3])
    scene = scenes(len(yaw), "PickCube")
    ManipulationState.get(scene, "tcp_quat")[:] = down(torch.zeros(len(yaw)))
    ManipulationState.get(scene, "object_quat")[:] = about_z(yaw)
    expected = torch.tensor([0.0, 0.3, -math.radians(10), math.radians(10), 0.0, -0.3])
    torch.testing.assert_close(face_turn(View(scene)), expected, atol=1e-5, rtol=0)
    on_its_side = torch.tensor([0.5**0.5, 0.5**0.5, 0.0, 0.0]).expand(len(yaw), 4)
    ManipulationState.get(scene, "object_quat")[:] = quat_mul(about_z(yaw), on_its_side)
    torch.testing.assert_close(face_turn(View(scene)), expected, atol=1e-5, rtol=0)


def test_tilted_tool_is_turned_back_down() -> None:
    scene = scenes(3, "Reach")
    tilt = torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.2, 0.0], [-0.1, 0.1, 0.0]])
    ManipulationState.get(scene, "tcp_quat")[:] = quat_mul(about(tilt), down(torch.zeros(3)))
    turn = expert("Reach", scene, ACTION)[:, 3:6]
    cosine = torch.nn.functional.cosine_similarity(turn, -tilt)
    assert (cosine > 0.999).all()


def test_cube_is_approached_from_the_far_side() -> None:
    for task, sign in (("PushCube", -1), ("PullCube", 1)):
        scene = scenes(8, task)
        ManipulationState.get(scene, "tcp_pos")[:] = ManipulationState.get(scene, "object_pos") + torch.tensor([0.0, 0.0, 0.1])
        action = expert(task, scene, ACTION)
        assert (action[:, 0] * sign > 0).all()
        assert (action[:, 6] == -1).all()


def teacher(name: str = "", task: str = "tabletop/PickCube") -> ScriptedTeacher:
    options = dict(part.split("=") for part in name.split(",") if part)
    made = from_string(None, options, make_spec(task), torch.device("cpu"))
    made.check_env(make_spec(task))
    return made


def observe(scene: torch.Tensor) -> TensorDict:
    return TensorDict({"privileged": scene}, batch_size=[len(scene)])


def test_noise_std_matches_option() -> None:
    scene = scenes(1, "PickCube").expand(20_000, -1)
    weak = teacher("noise=0.1")
    clean = teacher().label(observe(scene), []).mean
    free = (clean[0].abs() < 0.5) & (torch.arange(7) < 6)
    error = (weak.label(observe(scene), []).mean - clean)[:, free]
    assert error.mean(0).abs().max() < 0.005
    assert error.std(0) == pytest.approx(torch.full((int(free.sum()),), 0.1), rel=0.03)
    assert weak.label(observe(scene), []).std.unique().tolist() == pytest.approx([0.1])
    assert teacher("noise=0.5").errors.declared_std == 0.5


def test_flip_rate() -> None:
    scene = scenes(20_000, "PickCube")
    clean, flipped = (teacher(name).label(observe(scene), []).mean for name in ("", "gripper_error_rate=0.25"))
    assert (clean[:, 6] != flipped[:, 6]).float().mean() == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(clean[:, :6], flipped[:, :6])


def test_bias_moves_the_grasp_point_by_exactly_this_much() -> None:
    scene = scenes(16, "PickCube")
    ManipulationState.get(scene, "grasped")[8:] = 1
    shifted = scene.clone()
    ManipulationState.get(shifted, "object_pos")[:8, 1] += 0.03
    torch.testing.assert_close(perceived_state(scene, ExpertErrors(bias=0.03)), shifted)
    torch.testing.assert_close(teacher("bias=0.03").label(observe(scene), []).mean, teacher().label(observe(shifted), []).mean)
    ManipulationState.get(scene, "grasped")[:] = 0
    moved = ManipulationState.get(perceived_state(scene, ExpertErrors(bias=0.02, bias_angle=180)) - scene, "object_pos")
    torch.testing.assert_close(moved, torch.tensor([[-0.02, 0.0, 0.0]]).expand(16, 3), atol=1e-6, rtol=0)

    aimed = scene.clone()  # where there is no object, the target is what the tool goes to
    ManipulationState.get(aimed, "target_pos")[:, 1] += 0.03
    biased, clean = teacher("bias=0.03", "tabletop/Reach"), teacher("", "tabletop/Reach")
    torch.testing.assert_close(biased.label(observe(scene), []).mean, clean.label(observe(aimed), []).mean)


def test_phase_fails_in_a_fixed_fraction_of_episodes() -> None:
    scene = scenes(20_000, "PickCube")
    draw = per_episode_uniform(scene)
    assert (draw < 0.3).float().mean() == pytest.approx(0.3, abs=0.01)
    assert torch.histc(draw.float(), 10, 0, 1).min() > 1800
    ManipulationState.get(scene, "tcp_pos")[:] += 0.05  # elsewhere in the same episode
    torch.testing.assert_close(per_episode_uniform(scene), draw)

    ManipulationState.get(scene, "grasped")[:] = 1
    opens = teacher("fail=carry,fail_rate=0.3").label(observe(scene), []).mean[:, 6] > 0
    assert torch.equal(opens, draw < 0.3)


def test_failing_to_descend_hovers() -> None:
    scene = scenes(4, "PickCube")
    ManipulationState.get(scene, "tcp_pos")[:] = ManipulationState.get(scene, "object_pos") + torch.tensor([0.0, 0.0, 0.05])
    ManipulationState.get(scene, "tcp_quat")[:] = quat_mul(
        ManipulationState.get(scene, "object_quat"), torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(4, 4)
    )
    assert (teacher().label(observe(scene), []).mean[:, 2] < -0.3).all()
    assert (teacher("fail=descend").label(observe(scene), []).mean[:, :6].abs() < 1e-5).all()


def test_two_modes_average_to_neither() -> None:
    scene = scenes(1, "PickCube")
    ManipulationState.get(scene, "tcp_quat")[:] = down(torch.zeros(1))
    ManipulationState.get(scene, "object_quat")[:] = about_z(torch.tensor([0.7]))
    two = teacher("modes=2,samples=64")
    out = two.label(observe(scene), [])
    assert two.output_fields == {"mean", "std", "samples"}
    assert out.samples.shape == (1, 64, 7)
    turns = out.samples[0, :, 5]
    assert {round(t, 3) for t in turns.tolist()} == {1.0, -1.0}
    assert out.mean[0, 5] == pytest.approx(0, abs=1e-6)
    assert out.std[0, 5] == pytest.approx((0.1**2 + 1) ** 0.5)
    ManipulationState.get(scene, "object_quat")[:] = about_z(torch.tensor([0.2]))  # nearly aligned: its mind is made up
    assert teacher("modes=2").label(observe(scene), []).samples[0, :, 5].std() == 0


def test_bins_hold_its_gaussian() -> None:
    scene = scenes(16, "PickCube")
    one = teacher("bins=255,std=0.2")
    assert one.output_fields == {"mean", "std", "bin_logits", "log_prob"} and one.bin_edges.shape == (7, 256)
    out = one.label(observe(scene), [])
    assert out.bin_logits.shape == (16, 7, 255) and out.log_prob is None  # nobody has acted
    torch.testing.assert_close(out.bin_logits.exp().sum(-1), torch.ones(16, 7))
    middle = (one.bin_edges[0, 1:] + one.bin_edges[0, :-1]) / 2
    free = (out.mean.abs() < 0.2) & (torch.arange(7) < 6)  # whose tails the range does not cut
    mean = (out.bin_logits.exp() @ middle)[free]
    variance = (out.bin_logits.exp() * (middle - out.mean[..., None]).square()).sum(-1)[free]
    torch.testing.assert_close(mean, out.mean[free], atol=1e-3, rtol=0)
    torch.testing.assert_close(variance.sqrt(), torch.full_like(mean, 0.2), atol=1e-3, rtol=0)


def test_two_modes_are_both_in_the_bins() -> None:
    scene = scenes(1, "PickCube")
    ManipulationState.get(scene, "tcp_quat")[:] = down(torch.zeros(1))
    ManipulationState.get(scene, "object_quat")[:] = about_z(torch.tensor([0.7]))
    out = teacher("modes=2,bins=21,std=0.05").label(observe(scene), [])
    turn = out.bin_logits[0, 5].exp()
    assert turn[0].item() == pytest.approx(0.5, abs=0.1) and turn[-1].item() == pytest.approx(0.5, abs=0.1)
    assert turn[10] < 1e-6


def test_scores_the_student_action() -> None:
    scene = scenes(1, "PickCube").expand(3, -1)
    one = teacher("bins=101,std=0.2")
    action = one.label(observe(scene), []).mean.clone()
    action[1, 0] = 7.0  # in the outermost bin
    action[2, 6] *= -1
    out = one.label(observe(scene), [], action)
    index = ((action[:, :6] + 1) / (2 / 101)).long().clamp(0, 100)
    of_bins = out.bin_logits[:, :6].gather(-1, index[..., None])[..., 0] - math.log(2 / 101)
    of_sign = torch.tensor([[0.95], [0.95], [0.05]]).log()
    torch.testing.assert_close(out.log_prob, torch.cat([of_bins, of_sign], 1))
    assert out.log_prob[0, 0] > out.log_prob[1, 0]
    one.requested_fields = frozenset({"mean"})
    assert one.label(observe(scene), [], action).bin_logits is None


def test_out_of_distribution_labels_are_mirrored() -> None:
    scene = scenes(32, "PickCube")
    ManipulationState.get(scene, "object_pos")[:16, 1] = 0.08
    ManipulationState.get(scene, "object_pos")[16:, 1] = -0.08
    mirrored = scene.clone()
    for field in ("object_pos", "target_pos"):
        ManipulationState.get(mirrored, field)[:16, 1] *= -1
    out = teacher("ood=0.05").label(observe(scene), [])
    torch.testing.assert_close(out.mean, teacher().label(observe(mirrored), []).mean)
    assert out.std.max() <= 0.1
    ManipulationState.get(scene, "ood")[:] = 1  # the environment says so
    assert not torch.equal(teacher("ood=0.05").label(observe(scene), []).mean[16:], out.mean[16:])


def test_labels_need_no_memory() -> None:
    scene = scenes(32, "StackCube")
    one = teacher("bias=0.01,fail=grasp,fail_rate=0.5", "tabletop/StackCube")
    first = one.label(observe(scene), []).mean
    one.label(observe(scenes(32, "StackCube", seed=1)), [])
    torch.testing.assert_close(one.label(observe(scene), []).mean, first, rtol=0, atol=0)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one.label(observe(scene[order]), []).mean, first[order])


def test_noise_is_seeded_and_resumes() -> None:
    obs = observe(scenes(8, "PickCube"))
    one, two = teacher("noise=0.3,gripper_error_rate=0.2"), teacher("noise=0.3,gripper_error_rate=0.2")
    one.seed(7), two.seed(7)
    torch.testing.assert_close(one.label(obs, []).mean, two.label(obs, []).mean, rtol=0, atol=0)
    state = one.state_dict()
    later = one.act(obs, [])
    assert not torch.equal(later, one.act(obs, []))
    two.load_state_dict(state)
    assert torch.equal(two.act(obs, []), later)


def test_unsupported_task_is_refused() -> None:
    able = teacher()
    teacher(task="maniskill/PickCube-v1").check_env(make_spec("maniskill/PickCube-v1"))
    with pytest.raises(SpecMismatch, match="was made for tabletop/PickCube; the environment is maniskill/PickCube-v1"):
        able.check_env(make_spec("maniskill/PickCube-v1"))
    with pytest.raises(ConfigError, match=r"no expert for task 'maniskill/PegInsertionSide-v1'.*PickCube"):
        able.check_env(make_spec("maniskill/PegInsertionSide-v1"))
    with pytest.raises(SpecMismatch, match="does not provide"):
        able.check_env(make_spec(scene=False))
    joints = ACTION.model_copy(update={"names": ("j1", "j2", "j3", "j4", "j5", "j6", "j7")})
    with pytest.raises(SpecMismatch, match="j1 j2"):
        able.check_env(make_spec(action=joints))
    with pytest.raises(ConfigError, match="modes=2"):
        teacher("modes=2", "tabletop/Reach")
    with pytest.raises(ConfigError, match="no phase 'push'; it has: approach, descend, grasp, carry"):
        teacher("fail=push")
    with pytest.raises(ConfigError, match="did you mean noisy"):
        from_string("noysy", {}, make_spec(), torch.device("cpu"))
    with pytest.raises(ConfigError, match="noise"):
        teacher("noise=-1")


def test_preset_that_a_task_has_none_of_is_refused() -> None:
    known = re.escape("no preset 'biased' for libero/object-3: use noisy, or options, e.g. scripted:noise=0.5")
    with pytest.raises(ConfigError, match=known):
        from_string("biased", {}, make_spec("libero/object-3"), torch.device("cpu"))
    with pytest.raises(ConfigError, match="unknown preset of teacher scripted 'noise'"):
        from_string("noise", {}, make_spec("libero/object-3"), torch.device("cpu"))
    own = from_string("noisy", {}, make_spec("maniskill/PickCube-v1"), torch.device("cpu"))
    assert own.errors.noise < from_string("noisy", {}, make_spec(), torch.device("cpu")).errors.noise
