"""Simulated time: passes only between the ticks of the loop, and other simulators than the tabletop's."""

import importlib.util

import pytest

from rpd.cli.main import main
from rpd.config.deploy import DeployConfig
from rpd.deploy import config as configs
from rpd.deploy.clock import SteppedClock
from rpd.deploy.session import deploy
from rpd.envs.errors import ConfigError
from rpd.envs.rendering.vulkan import render_settings


def run(tmp_path, robot, task, episodes, policy="scripted", delay=0.0):
    options = DeployConfig(
        policy=policy, robot=robot, task=task, episodes=episodes, stepped=True, estop_file=tmp_path / "ESTOP"
    )
    return deploy(options, configs.load(robot), tmp_path / f"{robot}-{len(list(tmp_path.iterdir()))}.rpdlog", delay)


def test_time_passes_only_while_the_loop_sleeps():
    asked = []

    class Simulation:
        advance = staticmethod(asked.append)

    clock = SteppedClock(Simulation())
    clock.sleep_until(0.0)
    clock.sleep_until(0.05)
    clock.sleep_until(0.05)
    assert asked == [0.05] and clock.now() == 0.05


def test_stepped_episodes_are_never_late(tmp_path):
    outcomes = run(tmp_path, "sim", "tabletop/PickCube", 2)
    assert [o.success for o in outcomes] == [True, True]
    assert all(max(o.lateness) == 0 and o.overruns == 0 and max(o.delays) == 0 for o in outcomes)


@pytest.mark.parametrize("delay", [0.02, 0.05, 0.12])
def test_answers_come_late_in_simulated_time(tmp_path, delay):
    (outcome,) = run(tmp_path, "sim", "tabletop/Reach", 1, delay=delay)
    ticks = delay if delay <= 0.025 else -(-delay // 0.05) * 0.05  # a tick waits for half a period; then the next tick counts
    assert outcome.answered > 3 and outcome.delays == pytest.approx([ticks] * outcome.answered)
    assert not outcome.fault


@pytest.mark.maniskill
def test_maniskill_is_a_robot(tmp_path):
    """The expert, which grasps and lifts, in another simulator; with a camera stepped as well."""
    try:
        render_settings()
    except ConfigError as error:
        pytest.skip(str(error))
    outcomes = run(tmp_path, "maniskill-panda", "tabletop/PushCube", 2)
    assert [o.success for o in outcomes] == [True, True]


def test_only_simulated_robots_are_stepped(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["deploy", "scripted", "--task", "tabletop/Reach", "--robot", "ur5e", "--stepped", "True"]) == 2
    assert "driver ur has no simulated time, only sim, maniskill, robosuite: leave out --stepped" in capsys.readouterr().err


def test_robosuite_is_a_robot(tmp_path):
    if importlib.util.find_spec("robosuite") is None:  # its import chooses a renderer for the whole process
        pytest.skip("robosuite is not installed")
    assert [o.success for o in run(tmp_path, "robosuite-panda", "tabletop/PickCube", 1)] == [True]


@pytest.mark.maniskill
def test_errors_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    robot = ["--robot", "maniskill-panda", "--stepped", "True"]
    assert main(["deploy", "scripted", "--task", "tabletop/PushT", *robot]) == 2
    assert "robot maniskill: no task tabletop/PushT: it has tabletop/Reach" in capsys.readouterr().err
