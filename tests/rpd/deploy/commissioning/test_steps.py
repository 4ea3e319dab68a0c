"""Steps of a commissioning, with arms in memory."""

import time
from pathlib import Path

import numpy as np
import pytest

from rpd.config.commissioning import CheckConfig
from rpd.deploy import config as configs
from rpd.deploy import slow_motion
from rpd.deploy.commissioning import connection, gripper, hand_eye, workspace
from rpd.deploy.commissioning.console import StepFailed, choose, number
from rpd.deploy.commissioning.directions import of_motion
from rpd.deploy.commissioning.joints import check_joints, lag
from rpd.deploy.commissioning.progress import Progress
from rpd.deploy.commissioning.robot_file import write, write_file
from rpd.deploy.commissioning.station import Station
from rpd.deploy.commissioning.walk import Walk
from rpd.deploy.config import CameraConfig
from rpd.deploy.slow_motion import Trace
from rpd.envs.control.arm import Arm
from rpd.envs.control.limit_config import robot_files
from rpd.envs.errors import ConfigError
from rpd.envs.robots import ROBOTS
from rpd.envs.specs import Viewpoint
from tests.rpd.deploy import own_robots
from tests.rpd.deploy.commissioning.person import Person

WATCHDOG = {"observation_age": 20.0, "policy": 20.0, "max_consecutive_overruns": 400, "command_timeout": 1.5}


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    for module, name, value in (
        (slow_motion, "SPEED", 0.4),
        (slow_motion, "SETTLE", 0.1),
        (gripper, "STROKE", 0.2),
        (connection, "WATCHED", 0.2),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(own_robots.OwnRobot, "world", {})


@pytest.fixture
def walk(tmp_path):
    """`walk(person, robot, driver, ...)`: a commissioning of an arm in memory, of a shipped robot file."""

    def make(person, robot="sim", driver=own_robots.OwnRobot, **connection):
        config = configs.load(robot)
        watchdog = config.watchdog.model_copy(update=WATCHDOG)
        changes = {
            "driver": "own.py:Robot",
            "rate": 100.0,
            "watchdog": watchdog,
            "stop_within": 60.0,
            "connection": connection,
            "cameras": {},
        }
        config = config.model_copy(update=changes)

        class Here(Station):
            def driver(self):
                return driver(self.config, **self.config.connection)

        station = Here(robot, config, "tabletop/Reach", None, tmp_path / "ESTOP")
        progress = Progress(tmp_path / "progress.json", robot, config)
        return Walk(station, person, progress, CheckConfig(robot=robot), tmp_path, tmp_path / "out.yaml")

    return make


def arm_of(driver, name="here"):
    return driver.world[name]


def test_connection_shows_the_posture(walk):
    person = Person()
    assert connection.connect(walk(person)) == "own, 7 joints"
    assert "panda_joint4" in person.text and "50.0 cm before the base, 0.0 cm to its left, 16.0 cm up" in person.text
    with pytest.raises(StepFailed, match="the tool is elsewhere"):
        connection.connect(walk(Person(about_there="no")))


def test_old_measurements_fail_the_rates(walk):
    walk_ = walk(Person(), driver=own_robots.Stale)
    watchdog = walk_.station.config.watchdog.model_copy(update={"observation_age": 0.5})
    walk_.station.config = walk_.station.config.model_copy(update={"watchdog": watchdog})
    with pytest.raises(StepFailed, match=r"measurements are 10\d\d ms old .* watchdog.observation_age is 500 ms"):
        connection.rates(walk_)
    assert "measurements per second" in connection.rates(walk(Person()))


def test_joints_move_by_confirmed_motions(walk):
    person = Person()
    before = np.array(ROBOTS["panda"].home)
    assert "7 joints move as the robot file describes" in check_joints(walk(person))
    np.testing.assert_allclose(arm_of(own_robots.OwnRobot)["joints"], before, atol=1e-3)
    motions = [question for question in person.asked if "emergency stop at hand" in question]
    assert len(motions) == 7 and "the tool moves to the left" in motions[0] and "fingers turn" in motions[6]


def test_nothing_moves_without_a_typed_yes(walk):
    for typed in ("", "y", "no", "YES"):
        with pytest.raises(StepFailed, match="nothing has moved"):
            check_joints(walk(Person(emergency_stop=typed)))
    with pytest.raises(StepFailed, match="nothing has moved"):
        gripper.check_gripper(walk(Person(emergency_stop="no")))
    np.testing.assert_array_equal(arm_of(own_robots.OwnRobot)["joints"], ROBOTS["panda"].home)


def test_interchanged_joints_are_noticed(walk):
    with pytest.raises(StepFailed, match=r"from its command, after a motion of joint [123]"):
        check_joints(walk(Person(), driver=own_robots.Swapped))


def test_opposite_joint_of_a_driver_without_signs_fails(walk):
    with pytest.raises(StepFailed, match=r"panda_joint1 turns the other way, and driver .* has no sign"):
        check_joints(walk(Person(Was_it_so="opposite")))


def test_offsets_and_signs_become_those_of_the_arm(walk, monkeypatch):
    """The person reads true angles, and sees which way the arm really turns."""
    truth = {"offset": [10.0, -25.0, 3.0, 0.0, 40.0], "sign": [1.0, -1.0, 1.0, -1.0, 1.0]}
    monkeypatch.setattr(own_robots.Signed, "truth", truth)
    names = ROBOTS["so101"].joints
    steps = []

    def true_angle(question):
        joint = next(i for i, name in enumerate(names) if question.startswith(name))
        return f"{np.degrees(arm_of(own_robots.Signed)['joints'][joint]):.4f}"

    def direction(question):
        joint = len(steps)
        right = walk_.station.config.connection["sign"][joint] == truth["sign"][joint]
        if right:
            steps.append(joint)
        return "yes" if right else "opposite"

    person = Person(true_angle=true_angle, Was_it_so=direction)
    walk_ = walk(person, robot="so101", driver=own_robots.Signed, offset=[0.0] * 5, sign=[1.0] * 5)
    check_joints(walk_)
    found = walk_.station.config.connection
    assert found["sign"] == truth["sign"]
    np.testing.assert_allclose(found["offset"], truth["offset"], atol=0.01)


def test_lag_is_that_of_the_measurements():
    times = np.arange(0, 2, 0.02)
    commanded = np.sin(2 * times)[:, None]
    trace = Trace(list(times), list(commanded), list(np.sin(2 * (times - 0.06))[:, None]), [], [])
    assert lag(trace, 0) == pytest.approx(0.06, abs=0.006)


def test_directions_of_a_panda_in_words():
    arm, home = Arm(ROBOTS["panda"]), np.array(ROBOTS["panda"].home)
    turn = np.eye(7) * 0.1
    assert of_motion(arm, home, home + turn[0]).startswith("the tool moves to the left")
    assert of_motion(arm, home, home - turn[0]).startswith("the tool moves to the right")
    assert of_motion(arm, home, home + turn[3]).startswith("the tool moves away from the base")
    assert of_motion(arm, home, home + turn[6]) == "the fingers turn clockwise, seen from the wrist, by 6°"


def test_gripper_closes_and_opens(walk):
    assert gripper.check_gripper(walk(Person())).startswith("closes in 0.")
    assert arm_of(own_robots.OwnRobot)["gripper"] == 1.0
    with pytest.raises(StepFailed, match="does not follow"):
        gripper.check_gripper(walk(Person(Did_it_close="no")))


def test_workspace_is_taught_by_guiding_the_tool(walk):
    arm, home = Arm(ROBOTS["panda"]), np.array(ROBOTS["panda"].home)
    corners = [home + 0.2 * np.eye(7)[0] - 0.1 * np.eye(7)[1], home - 0.2 * np.eye(7)[0] + 0.15 * np.eye(7)[1]]
    guided = []

    def guide(question):
        if len(guided) == 2:
            return "done"
        arm_of(own_robots.OwnRobot)["joints"] = corners[len(guided)]
        guided.append(question)
        return ""

    walk_ = walk(Person(free_of_everything="teach", Corner=guide))
    own_robots.OwnRobot(walk_.station.config)  # the arm exists before it is guided
    workspace.check_workspace(walk_)
    places = arm.forward(np.array(corners))[0]
    found = np.array(walk_.station.config.limits.workspace)
    np.testing.assert_allclose(found, np.stack([places.min(axis=0), places.max(axis=0)], axis=1), atol=6e-4)


def test_taught_points_have_to_span_a_box():
    points = np.array([[0.4, -0.1, 0.0], [0.6, 0.1, 0.2]])
    np.testing.assert_array_equal(workspace.box_of(points, 0.05), [[0.4, -0.1, 0.05], [0.6, 0.1, 0.2]])
    with pytest.raises(StepFailed, match="10 mm along y"):
        workspace.box_of(np.array([[0.4, 0.0, 0.0], [0.6, 0.01, 0.2]]), 0.05)


def test_camera_is_calibrated_from_postures_of_the_arm(walk, monkeypatch):
    pytest.importorskip("cv2")
    from rpd.deploy.commissioning.charuco import angle, compose, inverse
    from tests.rpd.deploy.commissioning.rendered import board_on, picture, turned

    arm, home, fov = Arm(ROBOTS["panda"]), np.array(ROBOTS["panda"].home), np.radians(50)
    tool = [x[0] for x in arm.forward(home[None])]
    camera = np.array([0.95, 0.0, 0.5]), facing()
    board = board_on(tool, camera, (-0.1, -0.07, 0.4), turned(10, -12, 4))

    class Renderer:
        def __init__(self, name, config, size, address):
            self.size = size

        def read(self):
            hand = [x[0] for x in arm.forward(arm_of(own_robots.OwnRobot)["joints"][None])]
            return time.monotonic(), picture(compose(inverse(camera), compose(hand, board)), fov, self.size)

        def close(self):
            pass

    monkeypatch.setattr(hand_eye, "Camera", Renderer)
    monkeypatch.setattr(hand_eye, "VIEWS", 10)
    person = Person(Pose_and_field="measure")
    walk_ = walk(person)
    limits = walk_.station.config.limits.model_copy(update={"workspace": ((0.2, 0.9), (-0.4, 0.4), (0.0, 0.6))})
    cameras = {"front": CameraConfig(driver="opencv")}
    walk_.station.config = walk_.station.config.model_copy(update={"limits": limits, "cameras": cameras})
    spec = walk_.station.spec
    view = Viewpoint.of(*camera, np.radians(42))
    walk_.station.spec = spec.model_copy(update={"viewpoints": {"image.front": view}})
    assert "measured to" in hand_eye.calibrate_cameras(walk_)
    found = walk_.station.config.cameras["front"].viewpoint
    assert np.linalg.norm(np.array(found.position) - camera[0]) < 0.004
    assert np.degrees(angle(np.array(found.rotation), camera[1])) < 0.4
    assert np.degrees(found.fov) == pytest.approx(50, abs=0.4)
    assert "field of view +" in person.text and (walk_.folder / "board.png").is_file()
    write(walk_.station.config.model_copy(update={"driver": "sim", "connection": {}}), walk_.out, "sim")
    assert configs.load(str(walk_.out)).cameras["front"].viewpoint == found


def facing():
    """Rotation of a camera that looks at the arm."""
    forward = np.array([-0.8, 0.0, -0.55]) / np.linalg.norm([-0.8, 0.0, -0.55])
    right = np.cross(forward, [0, 0, 1]) / np.linalg.norm(np.cross(forward, [0, 0, 1]))
    return np.column_stack([right, np.cross(forward, right), forward])


@pytest.mark.parametrize("name", robot_files())
def test_written_robot_file_reads_as_it_was(name, tmp_path):
    config = configs.load(name)
    write(config, tmp_path / "mine.yaml", name)
    assert configs.load(str(tmp_path / "mine.yaml")) == config
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_config_that_its_file_would_refuse_is_not_written(tmp_path):
    config = configs.load("sim")
    bad = config.model_copy(update={"stop_within": 0.01})
    with pytest.raises(ConfigError, match=r"stop_within 0\.01 s cannot be kept"):
        write(bad, tmp_path / "mine.yaml", "sim")
    assert not list(tmp_path.iterdir())


def test_existing_robot_file_is_replaced_only_where_that_is_typed(walk, tmp_path):
    (tmp_path / "out.yaml").write_text("mine")
    walk_ = walk(Person(Replace_it="keep"))
    walk_.station.config = configs.load("sim")
    with pytest.raises(StepFailed, match="is kept: name another --out"):
        write_file(walk_)
    assert (tmp_path / "out.yaml").read_text() == "mine"
    walk_.console.rules = {"Replace it": "replace"}
    write_file(walk_)
    assert configs.load(str(tmp_path / "out.yaml")) == configs.load("sim")


def test_questions_are_repeated_until_the_answer_is_one_of_them():
    answers = iter(["maybe", "keep"])
    person = Person(Which=lambda question: next(answers))
    assert choose(person, "Which?", {"keep": "", "teach": ""}) == "keep" and "'maybe' is none of keep, teach" in person.text
    answers = iter(["ten", "nan", "1e9", "12.5", ""])
    person = Person(Angle=lambda question: next(answers))
    assert number(person, "Angle?", 3.0) == 12.5 and number(person, "Angle?", 3.0) == 3.0
    assert len(person.shown) == 3


def test_progress_of_another_robot_or_damaged_is_refused(tmp_path):
    config = configs.load("sim")
    progress = Progress.load(tmp_path, "sim", config)
    progress.finish("rates", "fine", config)
    again = Progress.load(tmp_path, "sim", config)
    assert again.done["rates"]["summary"] == "fine" and again.config == config
    with pytest.raises(ConfigError, match="is of robot sim, not of ur5e: name another --folder"):
        Progress.load(tmp_path, "ur5e", configs.load("ur5e"))
    Path(tmp_path / "progress.json").write_text('{"schema": 1, "robot"')
    with pytest.raises(ConfigError, match=r"damaged: .*: delete it to begin again"):
        Progress.load(tmp_path, "sim", config)
