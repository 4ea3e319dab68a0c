"""Parts of the state by name: numbers computed by hand, and the same quantity of every simulator's entries."""

import math

import numpy as np
import pytest

from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.envs.registry import make
from rpd.envs.specs import ObsSpec
from rpd.teachers.adapters.proprioception import axis_angle, part, quaternion
from rpd.teachers.adapters.served import resize_with_pad


def test_axis_angle():
    """As openpi's example: a quarter turn about z; no turn; and of a negative w the long way round."""
    half = math.sqrt(0.5)
    got = axis_angle(np.array([[0, 0, half, half], [0, 0, 0, 1], [0, 0, half, -half], [0, 0, 0, 1.0000001]]))
    np.testing.assert_allclose(got, [[0, 0, math.pi / 2], [0, 0, 0], [0, 0, 1.5 * math.pi], [0, 0, 0]], atol=1e-6)


def test_quaternions_of_rotations():
    rng = np.random.default_rng(0)
    q = rng.normal(size=(50, 4))
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    q[q[:, 3] < 0] *= -1
    q[0] = [1, 0, 0, 0]  # half a turn
    x, y, z, w = q.T
    first = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], 1)
    second = np.stack([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)], 1)
    got = quaternion(np.concatenate([first, second], 1))
    np.testing.assert_allclose(np.abs((got * q).sum(1)), 1, atol=1e-9)  # the same rotation
    assert (got[:, 3] >= 0).all()


def spec(names, opening=0.08, joints=7):
    env = make("tabletop/Reach", EnvConfig(num_envs=1), num_threads=1)
    env.close()
    body = env.spec.embodiment.model_copy(update={"num_joints": joints, "descriptor": {"opening": opening}})
    shape = ObsSpec(shape=(len(names),), dtype="float32")
    return env.spec.model_copy(update={"state_names": tuple(names), "observations": {"state": shape}, "embodiment": body})


TABLETOP = (
    "q.1",
    "q.2",
    "dq.1",
    "dq.2",
    "gripper",
    "tcp.x",
    "tcp.y",
    "tcp.z",
    *(f"tcp.r{r}{c}" for c in (1, 2) for r in (1, 2, 3)),
)
MANISKILL = (
    "qpos.panda_joint1", "qpos.panda_joint2", "qpos.panda_finger_joint1", "qpos.panda_finger_joint2",
    "tcp_pose.x", "tcp_pose.y", "tcp_pose.z", "tcp_pose.qw", "tcp_pose.qx", "tcp_pose.qy", "tcp_pose.qz", "obj_pose.x",
)  # fmt: skip
LIBERO = (
    "robot0_joint_pos.0", "robot0_joint_pos.1", "robot0_joint_pos_cos.0", "robot0_eef_pos.0", "robot0_eef_pos.1",
    "robot0_eef_pos.2", "robot0_eef_quat.qx", "robot0_eef_quat.qy", "robot0_eef_quat.qz", "robot0_eef_quat.qw",
    "robot0_gripper_qpos.0", "robot0_gripper_qpos.1",
)  # fmt: skip
HALF = math.sqrt(0.5)
ROWS = {  # joints 1 and 2 rad, gripper three quarters open (0.06 of 0.08 m), hand at (3, 4, 5) m, a quarter turn about z
    TABLETOP: [1, 2, 8, 8, 0.75, 3, 4, 5, 0, 1, 0, -1, 0, 0],
    MANISKILL: [1, 2, 0.03, 0.03, 3, 4, 5, HALF, 0, 0, HALF, 9],
    LIBERO: [1, 2, 8, 3, 4, 5, 0, 0, HALF, HALF, 0.03, -0.03],
}
MEANING = {
    "eef_pos": [3, 4, 5], "eef_quat": [0, 0, HALF, HALF], "eef_axis_angle": [0, 0, math.pi / 2], "joint_pos": [1, 2],
    "gripper_qpos": [0.03, -0.03], "gripper_closed": [0.25], "-gripper_closed": [-0.25],
}  # fmt: skip


@pytest.mark.parametrize("name", MEANING)
@pytest.mark.parametrize("names", ROWS, ids=["tabletop", "maniskill", "libero"])
def test_quantities_mean_the_same_everywhere(names, name):
    there = spec(names, joints=2)
    got = part(name, there).read(np.float32([ROWS[names]]), there)
    np.testing.assert_allclose(got, [MEANING[name]], atol=1e-6)
    assert got.dtype == np.float32


def test_groups_and_entries():
    there = spec(TABLETOP)
    state = np.arange(len(TABLETOP), dtype=np.float32)[None]
    assert part("q", there).read(state, there).tolist() == [[0, 1]] and part("tcp.z", there).read(state, there).tolist() == [
        [7]
    ]
    with pytest.raises(ConfigError, match="unknown part of the state of tabletop/Reach 'tpc': did you mean tcp"):
        part("tpc", there)
    with pytest.raises(SpecMismatch, match="tabletop/Reach does not provide eef_pos; its state has q"):
        part("eef_pos", spec(("q.1",)))


def test_resize_with_pad():
    """openpi's: a wide image gets black bars above and below; one that fits stays as it is."""
    wide = np.full((1, 8, 16, 3), 200, np.uint8)
    got = resize_with_pad(wide, 8)
    assert got.shape == (1, 8, 8, 3) and (got[0, 2:6] == 200).all() and not got[0, :2].any() and not got[0, 6:].any()
    square = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert resize_with_pad(square, 8) is square
