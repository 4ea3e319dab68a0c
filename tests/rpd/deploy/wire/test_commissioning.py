"""`rpd robot check` from end to end through each real SDK, with a simulated arm behind its fake controller."""

import re
import socket
from pathlib import Path

import numpy as np
import pytest
import yaml

from rpd.config.commissioning import CheckConfig
from rpd.deploy import config as configs
from rpd.deploy import slow_motion
from rpd.deploy.commissioning import check, connection, gripper
from rpd.envs import user_files
from rpd.envs.robots import ROBOTS
from tests.rpd.deploy.commissioning.person import Person
from tests.rpd.deploy.wire import feetech_motors
from tests.rpd.deploy.wire.process import Fake

TASK = "tabletop/Reach"
WATCHDOG = {"observation_age": 1.0, "policy": 20.0, "max_consecutive_overruns": 100, "command_timeout": 1.0}
FAKES = {"ur5e": "fake_ur", "xarm6": "fake_xarm", "so101": "fake_feetech"}
SDKS = {"ur5e": "rtde_control", "xarm6": "xarm", "so101": "scservo_sdk"}


@pytest.fixture
def fake(request):
    robot = request.param
    pytest.importorskip(SDKS[robot])
    if robot == "xarm6":
        try:
            socket.create_server(("127.255.0.1", 502)).close()
        except OSError as error:
            pytest.skip(f"the controller of an xArm is at port 502: {error}")
    made = Fake(FAKES[robot], TASK, robot)
    made.robot = robot
    made.ask("begin")
    yield made
    made.close()


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Faster motions, and no terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "require_terminal", lambda robot: None)
    monkeypatch.setattr(slow_motion, "SPEED", 0.3)
    monkeypatch.setattr(slow_motion, "SETTLE", 0.3)
    monkeypatch.setattr(gripper, "STROKE", 2.0)
    monkeypatch.setattr(connection, "WATCHED", 1.0)


def commission(fake, person, **changes):
    """Commission the robot of its shipped file, without cameras; returns the file that was written."""
    config = configs.load(fake.robot)
    watchdog = config.watchdog.model_copy(update=WATCHDOG)
    changes = {"watchdog": watchdog, "stop_within": 60.0, "cameras": {}, "rate": min(config.rate, 50.0), **changes}
    with open("begin.yaml", "w") as file:
        yaml.safe_dump(config.model_copy(update=changes).model_dump(mode="json"), file)
    return configs.load(str(check.commission(CheckConfig(robot="begin.yaml", host=fake.host, task=TASK), person)))


@pytest.mark.slow
@pytest.mark.parametrize("fake", ["ur5e", "xarm6"], indirect=True)
def test_arm_from_its_connection_to_its_file(fake, quick):
    person = Person(free_of="keep")
    written = commission(fake, person)
    assert written.connection["host"] == fake.host
    assert "6 joints move as the robot file describes" in person.text
    assert sum(text.startswith("[done]") for text in person.shown) == len(check.STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("fake", ["so101"], indirect=True)
def test_offsets_and_signs_of_an_so101_are_found(fake, quick, tmp_path):
    """Its file begins without them: the person reads true angles from a protractor, and sees which way the arm turns."""
    user_files.load([Path(feetech_motors.__file__).parent / "patient_feetech.py"])
    names, sign, offset = ROBOTS["so101"].joints, feetech_motors.SIGN, np.degrees(feetech_motors.OFFSET)
    turned, corrected = list[int](), list[int]()  # joints that have turned as described, and those whose sign was corrected

    def true_angle(question):
        joint = next(i for i, name in enumerate(names) if question.startswith(name))
        motor = float(re.search(r"is at (-?[\d.]+)°", question)[1])  # as long as the offset is 0 and the sign 1
        return f"{sign[joint] * (motor - offset[joint]):.3f}"

    def direction(question):
        joint = len(turned)
        right = joint in corrected or sign[joint] > 0
        (turned if right else corrected).append(joint)
        return "yes" if right else "opposite"

    person = Person(true_angle=true_angle, Was_it_so=direction, free_of="keep")
    shipped = feetech_motors.connection(configs.load("so101").connection, tmp_path)
    zero = {**shipped, "offset": [0.0] * len(names), "sign": [1.0] * len(names)}
    found = commission(fake, person, connection=zero).connection
    assert found["sign"] == sign.tolist()
    np.testing.assert_allclose(found["offset"], offset, atol=0.5)
