"""Hand-eye calibration against rendered boards, with the truth by hand."""

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")

from rpd.config.commissioning import BoardConfig  # noqa: E402
from rpd.deploy.commissioning.charuco import Board, View, compose, inverse  # noqa: E402
from rpd.deploy.commissioning.hand_eye import VIEWS, postures  # noqa: E402
from rpd.deploy.viewpoints import angle  # noqa: E402
from rpd.envs.control.arm import Arm  # noqa: E402
from rpd.envs.errors import ConfigError  # noqa: E402
from rpd.envs.robots import ROBOTS  # noqa: E402
from tests.rpd.deploy.commissioning.rendered import BOARD, SIZE, board_on, picture, turned  # noqa: E402

FOV = np.radians(48)


def test_corners_are_found_where_they_are_drawn():
    place, turn = np.array([-0.09, -0.06, 0.5]), turned(15, -20, 5)
    corners, points = BOARD.detect(picture((place, turn), FOV))
    in_camera = points @ turn.T + place
    focal = SIZE / 2 / np.tan(FOV / 2)
    truth = focal * in_camera[:, :2] / in_camera[:, 2:] + SIZE / 2 - 0.5
    assert len(corners) == 24
    assert np.sqrt(np.square(corners - truth).sum(axis=1).mean()) < 0.1
    assert BOARD.detect(np.full((SIZE, SIZE, 3), 128, np.uint8)) is None


def calibrated(robot, mounted):
    """Calibration from rendered pictures; and the truth: the camera in the base or hand frame."""
    arm = Arm(ROBOTS[robot])
    starts = postures(np.array(ROBOTS[robot].home), VIEWS)
    tools = [(p, r) for p, r in zip(*arm.forward(np.array(starts)), strict=True)]
    if mounted:
        camera = np.array([-0.06, 0.01, -0.05]), turned(0, 12, 90)
        seen = compose(tools[0], camera)
        fixed = board_on((np.zeros(3), np.eye(3)), seen, (-0.1, -0.07, 0.35), turned(8, -6, 3))
        poses = [compose(inverse(compose(tool, camera)), fixed) for tool in tools]
    else:
        forward = np.array([-0.8, 0.1, -0.5]) / np.linalg.norm([-0.8, 0.1, -0.5])
        right = np.cross(forward, [0, 0, 1]) / np.linalg.norm(np.cross(forward, [0, 0, 1]))
        camera = np.array([0.95, -0.05, 0.5]), np.column_stack([right, np.cross(forward, right), forward])
        held = board_on(tools[0], camera, (-0.1, -0.07, 0.45), turned(10, 15, 0))
        poses = [compose(inverse(camera), compose(tool, held)) for tool in tools]
    views = []
    for tool, board in zip(tools, poses, strict=True):
        if board[0][2] > 0.1 and (found := BOARD.detect(picture(board, FOV))) is not None:
            views.append(View(*found, tool))
    return BOARD.calibrate(views, SIZE, mounted), camera


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("robot", ["panda", "ur5e"])
def test_pose_and_field_of_view_are_those_of_the_drawing(robot, mounted):
    """Within 3 mm, 0.3° and 0.3°; measured: 1.2 to 2.2 mm, 0.03 to 0.11° and 0.08 to 0.18°."""
    found, (position, rotation) = calibrated(robot, mounted)
    view = found.viewpoint
    off = np.linalg.norm(np.array(view.position) - position), np.degrees(angle(np.array(view.rotation), rotation))
    assert view.mounted == mounted
    assert off[0] < 0.003 and off[1] < 0.3 and abs(np.degrees(view.fov - FOV)) < 0.3
    assert found.pixels < 0.15 and found.spread < 0.001


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"dictionary": "DICT_9X9"}, "--board.dictionary DICT_9X9"), ({"marker": 0.04}, "--board.marker 0.04 m")],
)
def test_board_that_does_not_exist_is_one_line(changes, says):
    with pytest.raises(ConfigError, match=says):
        Board(BoardConfig(**changes))


def test_too_few_views_are_refused():
    with pytest.raises(ConfigError, match="from 0 postures, and 6 are needed"):
        BOARD.calibrate([], SIZE, mounted=True)
