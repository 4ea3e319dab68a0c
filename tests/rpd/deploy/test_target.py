import numpy as np
import pytest

from rpd.deploy.safety import Limits
from rpd.deploy.target import INSET, INSET_ANGLE, TargetLimits
from rpd.envs.control import kinematics

DOWN = np.array([0.0, 1.0, 0.0, 0.0])  # half a turn about x
ONES = np.ones(7)


def allowed(tilt=0.5, lowest=0.02):
    box = np.array([0.3, -0.2, 0.01]), np.array([0.6, 0.2, 0.3])
    return TargetLimits(Limits(-ONES, ONES, ONES, ONES, box, 1.0, tilt), lambda rotation: lowest)


def tilt(quat):
    return np.arccos(-kinematics.quat_to_mat(quat)[2, 2])


def test_allowed_pose_is_unchanged():
    place = np.array([0.4, 0.1, 0.1])
    position, quat = allowed().limit(place, DOWN)
    np.testing.assert_array_equal(position, place)
    np.testing.assert_array_equal(quat, DOWN)


def test_position_is_raised_until_the_hand_is_clear_but_not_beyond_the_box():
    assert allowed().limit(np.array([0.4, 0.1, 0.011]), DOWN)[0][2] == pytest.approx(0.02 + INSET)
    assert allowed(lowest=0.5).limit(np.array([0.4, 0.1, 0.011]), DOWN)[0][2] == pytest.approx(0.3 - INSET)


@pytest.mark.parametrize("axis", [[1.0, 0, 0], [0, 1.0, 0], [0.6, 0.8, 0]])
def test_orientation_is_turned_back_toward_straight_down(axis):
    quat = kinematics.quat_mul(kinematics.rotvec_to_quat(0.9 * np.array(axis)), DOWN)
    _, limited = allowed().limit(np.array([0.4, 0.1, 0.1]), quat)
    assert tilt(quat) == pytest.approx(0.9)
    assert tilt(limited) == pytest.approx(0.5 - INSET_ANGLE)
    left = kinematics.rotation_error(quat, limited)  # about the same axis: no turn beyond what is needed
    np.testing.assert_allclose(left, (0.9 - 0.5 + INSET_ANGLE) * np.array(axis), atol=1e-9)


def test_tool_that_points_up_is_turned_down():
    _, limited = allowed().limit(np.array([0.4, 0.1, 0.1]), np.array([1.0, 0, 0, 0]))
    assert tilt(limited) == pytest.approx(0.5 - INSET_ANGLE)


def test_box_of_targets_is_inside_of_the_workspace():
    low, high = allowed().box
    np.testing.assert_allclose(low, np.array([0.3, -0.2, 0.01]) + INSET)
    np.testing.assert_allclose(high, np.array([0.6, 0.2, 0.3]) - INSET)
