"""Episodes of `rpd deploy` through a real SDK on a fake controller, each from a terminal, as a person starts them."""

import yaml

from rpd.datasets.deploy_log.reader import Record
from rpd.deploy import config as configs
from tests.rpd.deploy.wire.command import Command
from tests.rpd.deploy.wire.process import ROOT

AS_SIMULATED = {
    "rate": 20, "ramp": 0.0, "smoothing": 0.0, "gripper_hysteresis": 0.0, "stop_within": 0.45, "cameras": {},
    "limits": {"velocity": [3.14] * 6, "acceleration": [100.0] * 6, "tcp_speed": 2.0, "max_tracking_error": 0.6},
    "watchdog": {"observation_age": 0.25, "policy": 0.3, "max_consecutive_overruns": 5},
}  # fmt: skip
"""Changes of the shipped file ur5e: rate and limits of the simulated arm, in which policies are trained."""
TRACKED = ROOT / "tests/rpd/deploy/wire/tracked.py"


def robot_file(folder, fake, driver, shipped, **changes):
    """Write a shipped robot file with a tracker and changed limits, as a policy trained in the simulation expects them.

    Args:
        folder: folder of the file.
        fake: its `Fake`.
        driver: driver of tracked.py.
        shipped: name of the shipped file.
        changes: entries by group, or by name.
    """
    config = configs.load(shipped).model_dump(mode="json") | {"driver": driver}
    config["connection"] |= {"host": fake.host, "tracker": fake.orders}
    for name, value in changes.items():
        config[name] = config[name] | value if isinstance(value, dict) else value
    (folder / "arm.yaml").write_text(yaml.safe_dump(config))
    return folder / "arm.yaml"


def episode(fake, policy, robot, seed, out):
    """Run one; returns its numbers."""
    fake.ask("begin", seed=seed)
    words = ("deploy", policy, "--robot", str(robot), "--import", str(TRACKED), "--seed", str(seed), "--out", str(out))
    command = Command(*words, cwd=out.parent)
    try:
        code = command.wait(600)
    finally:
        command.close()
    state = fake.ask("state")
    if not out.exists():
        raise AssertionError(command.shown)
    (played,) = Record(out).played
    ticks = [tick for tick in played.ticks if "command" in tick]
    return {
        "seed": seed, "solved": state["success"], "exit_code": code, "fault": played.fault,
        "stops": [how for how, _ in state["stops"]],
        "ticks": len(ticks), "missed": sum(tick["missed"] for tick in played.ticks),
        "oldest_ms": round(1000 * max(tick["age"] for tick in ticks), 1),
        "clamped": sum(bool(tick["clamps"]) for tick in ticks),
    }  # fmt: skip
