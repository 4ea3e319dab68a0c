"""Limits of a robot description that cannot be true are refused by name."""

from dataclasses import replace

import pytest

from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.robots import ROBOTS


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"payload": 3000.0}, "robot mine: payload: 3000 is implausible: 0.1 to 50 kg; g?"),
        ({"jerk": (7500.0,)}, "robot mine: jerk has 1 entries, and there are 7 joints"),
        ({"jerk": (430_000.0,) * 7}, "robot mine: jerk: 430000 is implausible: 50 to 20000 rad/s.3; degrees"),
        ({"acceleration": (860.0,) * 7}, "robot mine: acceleration: 860 is implausible"),
        ({"tcp_speed": 1700.0}, "robot mine: tcp_speed: 1700 is implausible: 0.05 to 10 m/s; mm/s?"),
        ({"gripper": replace(ROBOTS["panda"].gripper, speed=50.0)}, "robot mine: gripper.speed: 50 is implausible"),
        (
            {"gripper": replace(ROBOTS["panda"].gripper, force=80.0)},
            "mine: gripper.force: 80 N, and the gripper has 70 N",
        ),
    ],
)
def test_implausible_limits_are_refused(changes, error):
    with pytest.raises(ConfigError, match=error):
        replace(ROBOTS["panda"], name="mine", **changes)


def test_object_that_is_too_heavy_for_the_arm_is_refused(monkeypatch):
    monkeypatch.setitem(ROBOTS, "weak", replace(ROBOTS["panda"], name="weak", payload=0.9))
    registry.make("tabletop/PickCube", EnvConfig(robot="weak", num_envs=1))
    with pytest.raises(ConfigError, match=r"robot weak carries 0.9 kg: its gripper of 0.83 kg with an object of up to 0.1 kg"):
        registry.make("tabletop/PickCube", EnvConfig(robot="weak", num_envs=1, domain_randomization=("mass",)))
