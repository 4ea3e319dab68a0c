"""The contract of drivers as a user runs it, and drivers of a user's own file."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from rpd.cli.main import main
from rpd.deploy import config as configs
from rpd.deploy import slow_motion
from rpd.deploy.policy import wanted_spec
from rpd.deploy.robots.base import RobotState
from rpd.deploy.robots.connect import build
from rpd.deploy.robots.contract import ContractBroken, check, require
from rpd.envs import user_files
from rpd.envs.errors import ConfigError
from rpd.envs.robots import ROBOTS
from tests.rpd.deploy import own_robots

OWN = Path(own_robots.__file__)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(slow_motion, "SPEED", 1.0)
    monkeypatch.setattr(slow_motion, "SETTLE", 0.1)
    own_robots.OwnRobot.world.clear()
    imported = set(sys.modules)
    monkeypatch.setenv(user_files.VARIABLE, "")
    monkeypatch.setattr(user_files, "_loaded", [])
    yield
    for name in {"own_robots", "mine"} - imported:
        sys.modules.pop(name, None)


@pytest.fixture
def config(make_config):
    return make_config()


def broken(findings):
    return next((finding for finding in findings if finding.kept is False), None)


def test_simulated_robot_keeps_the_contract(config):
    wanted = wanted_spec("scripted", "tabletop/Reach", config.kinematics)
    findings = check(lambda: build(config, wanted, None), config, begin=lambda robot: robot.reset(0))
    require(findings)
    assert [finding.kept for finding in findings].count(None) == 1  # its stream cannot be ended


def test_replayed_robot_keeps_the_contract(rig, config):
    deployed = rig()
    deployed.loop.record({"kind": "episode", "seed": 0, "instruction": "go"})
    deployed.run(steps=60)
    replay = config.model_copy(update={"driver": "replay"})
    require(check(lambda: build(replay, None, str(deployed.path)), replay, moves=False))


def test_robot_of_a_users_own_keeps_the_contract(config):
    frozen = []

    class Freezing(own_robots.OwnRobot):
        def read(self):
            state = super().read()
            return RobotState(*frozen, state.joints, state.velocities, state.gripper) if frozen else state

    findings = check(lambda: Freezing(config), config, freeze=lambda: frozen.append(time.monotonic()))
    require(findings)
    assert all(finding.kept for finding in findings)


@pytest.mark.parametrize(
    ("name", "clause", "detail"),
    [
        ("Slow", "read() does not wait", "more than half a period"),
        ("Swapped", "command() moves each joint", "from its command"),
        ("Restless", "later commands do nothing", "a command after stop() moved a joint"),
        ("Grasping", "command() moves each joint", "the gripper moved"),
        ("Stale", "measurements are fresh", "1000 ms old"),
        ("Fallen", "stop() brings the arm to rest", "no answer"),
    ],
)
def test_broken_clause_is_named(name, clause, detail, config):
    watchdog = config.watchdog.model_copy(update={"observation_age": 0.5})
    config = config.model_copy(update={"watchdog": watchdog})
    findings = check(lambda: getattr(own_robots, name)(config), config)
    found = broken(findings)
    assert clause in found.clause and detail in found.detail and found is findings[-1]
    with pytest.raises(ContractBroken, match=detail.replace("(", r"\(").replace(")", r"\)")):
        require(findings)


def test_end_of_a_stream_that_is_not_noticed_breaks_the_contract(config):
    findings = check(lambda: own_robots.OwnRobot(config), config, moves=False, freeze=lambda: None)
    assert "freshness" in broken(findings).detail


def own_file(tmp_path, driver, **connection):
    path = tmp_path / "robot.yaml"
    config = configs.load("sim").model_copy(update={"driver": driver, "connection": connection, "cameras": {}})
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def test_contract_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--robot", "sim", "--host", "here"]
    assert main(["robot", "contract", f"{OWN}:OwnRobot", *words]) == 0
    out = capsys.readouterr().out
    assert "BROKEN" not in out and out.count("kept") == 9
    assert main(["robot", "contract", f"{OWN}:Grasping", *words, "--move", "False"]) == 0
    assert main(["robot", "contract", f"{OWN}:Grasping", *words]) == 1
    assert "BROKEN" in capsys.readouterr().out


def test_driver_of_a_robot_file_is_relative_to_it(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from tests.rpd.deploy.own_robots import OwnRobot as MyRobot\n")
    monkeypatch.chdir("/")
    config = configs.load(str(own_file(tmp_path, "mine.py:MyRobot", host="there")))
    robot = build(config, None, None)
    assert type(robot).__name__ == "OwnRobot" and "there" in own_robots.OwnRobot.world
    monkeypatch.chdir(tmp_path)
    config = configs.load("ur5e", "mine.py:MyRobot")
    robot = build(config, None, None)
    np.testing.assert_allclose(robot.read().joints, ROBOTS["ur5e"].home)


@pytest.mark.parametrize(
    ("driver", "connection", "expected"),
    [
        ("none.py:Mine", {}, "there is no file .*none.py"),
        (f"{OWN}:Mine", {}, "own_robots.py has no class 'Mine'"),
        (f"{OWN}:not_a_class", {}, "has no class 'not_a_class'"),
        (f"{OWN}:Half", {}, "Half lacks read, command, stop, close, resets"),
        (f"{OWN}:Nameless", {}, r"has to set self\.spec"),
        (f"{OWN}:OwnRobot", {"port": 3}, "constructor failed: TypeError: .*'port'"),
    ],
)
def test_driver_that_cannot_be_made_is_one_line(driver, connection, expected, tmp_path):
    config = configs.load(str(own_file(tmp_path, driver, **connection)))
    with pytest.raises(ConfigError, match=expected) as error:
        build(config, None, None)
    assert "\n" not in str(error.value)


def test_unknown_driver_names_the_valid_ones():
    with pytest.raises(ConfigError, match=r"did you mean ur|valid.*FILE\.py:Class"):
        configs.load("sim", "urr")


def test_driver_of_the_documentation_keeps_the_part_of_the_contract_that_it_shows(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[3] / "docs" / "commissioning.md").read_text()
    monkeypatch.chdir(tmp_path)
    Path("my_arm.py").write_text(page.split("```python\n")[1].split("```")[0])
    monkeypatch.setitem(sys.modules, "my_arm", None)  # removed after the test
    monkeypatch.delitem(sys.modules, "my_arm")
    assert main(["robot", "contract", "my_arm.py:MyArm", "--robot", "so101", "--move", "False"]) == 0
    assert "BROKEN" not in capsys.readouterr().out
