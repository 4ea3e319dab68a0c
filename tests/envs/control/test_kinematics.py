"""Differential inverse kinematics and quaternion algebra on numbers worked out by hand."""

import numpy as np
import pytest

from rpd.envs.control import kinematics

RNG = np.random.default_rng(0)


def random_quats(n: int) -> np.ndarray:
    q = RNG.standard_normal((n, 4))
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def test_damping_shrinks_the_step_as_in_the_scalar_case():
    # One joint per axis: dq = e / (1 + lambda^2) = 0.1 / 1.25.
    jacp, jacr = np.eye(3)[None], np.zeros((1, 3, 3))
    dq = kinematics.dls(jacp, jacr, np.array([[0.1, 0, 0]]), np.zeros((1, 3)), damping=0.5, rot_weight=1.0)
    np.testing.assert_allclose(dq, [[0.08, 0, 0]])


def test_rotation_weight_scales_rows_and_errors():
    # dq = w^2 e / (w^2 + lambda^2) = 0.04 * 0.5 / (0.04 + 0.01)
    jacp, jacr = np.zeros((1, 3, 3)), np.eye(3)[None]
    dq = kinematics.dls(jacp, jacr, np.zeros((1, 3)), np.array([[0, 0, 0.5]]), damping=0.1, rot_weight=0.2)
    np.testing.assert_allclose(dq, [[0, 0, 0.4]])


def test_step_stays_finite_where_no_joint_can_help():
    dq = kinematics.dls(
        np.zeros((2, 3, 5)), np.zeros((2, 3, 5)), np.ones((2, 3)), np.ones((2, 3)), damping=0.02, rot_weight=0.1
    )
    np.testing.assert_array_equal(dq, np.zeros((2, 5)))


def test_posture_moves_only_in_the_null_space():
    jacp, jacr = RNG.standard_normal((4, 3, 7)), RNG.standard_normal((4, 3, 7))
    zero = np.zeros((4, 3))
    posture = RNG.standard_normal((4, 7))
    dq = kinematics.dls(jacp, jacr, zero, zero, damping=1e-6, rot_weight=1.0, posture=posture)
    jac = np.concatenate((jacp, jacr), axis=1)
    np.testing.assert_allclose(jac @ dq[..., None], np.zeros((4, 6, 1)), atol=1e-9)
    assert ((dq * posture).sum(axis=1) > 0).all()


def test_other_joints_take_over_from_one_at_its_limit():
    # Two joints both move along x; the first may only go 0.2 of the way to 1, so the second goes 0.8.
    jacp, jacr, zero = np.zeros((2, 3, 2)), np.zeros((2, 3, 2)), np.zeros((2, 3))
    jacp[:, 0] = 1
    err = np.array([[1.0, 0, 0], [0.1, 0, 0]])  # the second environment meets no limit
    args = (jacp, jacr, err, zero, 1e-5, 1.0)
    goal = kinematics.joint_targets(np.zeros((2, 2)), np.array([-1, -1.0]), np.array([0.2, 1.0]), *args)
    np.testing.assert_allclose(goal, [[0.2, 0.8], [0.05, 0.05]], atol=1e-6)


def test_quarter_turn_about_z():
    q = kinematics.rotvec_to_quat(np.array([0, 0, np.pi / 2]))
    np.testing.assert_allclose(q, [np.sqrt(0.5), 0, 0, np.sqrt(0.5)])
    np.testing.assert_allclose(kinematics.quat_to_mat(q) @ [1, 0, 0], [0, 1, 0], atol=1e-15)
    np.testing.assert_allclose(kinematics.quat_to_rotvec(-q), [0, 0, np.pi / 2])  # -q is the same rotation


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, 3.14])
def test_rotation_vector_round_trip(angle):
    v = angle * np.array([[1, 0, 0], [0.6, 0, -0.8]])
    np.testing.assert_allclose(kinematics.quat_to_rotvec(kinematics.rotvec_to_quat(v)), v, atol=1e-12)


def test_matrices_round_trip_even_at_half_turns():
    q = np.concatenate((random_quats(50), np.eye(4)))
    q = np.where(q[:, :1] < 0, -q, q)
    np.testing.assert_allclose(kinematics.mat_to_quat(kinematics.quat_to_mat(q)), q, atol=1e-12)


def test_product_composes_like_matrices():
    a, b = random_quats(20), random_quats(20)
    np.testing.assert_allclose(
        kinematics.quat_to_mat(kinematics.quat_mul(a, b)), kinematics.quat_to_mat(a) @ kinematics.quat_to_mat(b), atol=1e-12
    )
    np.testing.assert_allclose(kinematics.quat_mul(a, kinematics.quat_conj(a)), np.tile([1.0, 0, 0, 0], (20, 1)), atol=1e-12)


def test_rotation_error_is_in_the_world_frame_and_the_short_way():
    current = random_quats(20)
    turn = 0.3 * RNG.standard_normal((20, 3))
    target = -kinematics.quat_mul(kinematics.rotvec_to_quat(turn), current)
    np.testing.assert_allclose(kinematics.rotation_error(target, current), turn, atol=1e-12)
