"""Measure deployments through the real SDKs of xArm and LeRobot, on the fake controllers of tests/rpd/deploy/wire.

python scripts/deploy_fakes.py episodes xarm6 runs/push --out results/deploy/xarm6-episodes.json
python scripts/deploy_fakes.py faults xarm6 --out results/deploy/xarm6-faults.json

Robot so101 needs LeRobot: scripts/lerobot_venv.sh makes .venv-lerobot, whose python runs this. The policy of `episodes` acts on
PushCube from state: rpd train tabletop/PushCube --robot xarm6 --env.limits published --teacher scripted
--total-timesteps 150_000.
Faults begin while the arm swings, with the limits and the watchdog of the shipped robot file, without its slow start.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from rpd.core import realtime
from rpd.core.files import write_json
from rpd.core.statistics import format_rate
from rpd.deploy import config as configs
from tests.rpd.deploy.conftest import Server
from tests.rpd.deploy.wire import deployed, feetech_motors, solve
from tests.rpd.deploy.wire.process import Fake

TASK, SWING = "tabletop/PushCube", "tabletop/Reach"
SDK = {"xarm6": "xarm-python-sdk", "so101": "lerobot"}
FAULTS = {
    "xarm6": (
        "pause", "pendant", "collision", "emergency", "contact", "motion stall", "motion reset", "report stall",
        "gripper silent", "wrong answers", "slow", "stall", "reset",
    ),
    "so101": ("overload", "voltage", "jump", "silent", "missing", "checksum", "slow", "unplugged"),
}  # fmt: skip


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("episodes", "faults"))
    parser.add_argument("robot", choices=tuple(SDK))
    parser.add_argument("policy", nargs="?")
    parser.add_argument("--count", type=int, default=20, help="episodes; faults: of each")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    realtime.raise_priority()
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "episodes":
            result = _episodes(given.robot, str(Path(given.policy).resolve()), given.count, Path(folder))
        else:
            result = _faults(given.robot, given.count, Path(folder))
    sdk = {SDK[given.robot]: metadata.version(SDK[given.robot])}
    about = {**sdk, "machine": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(given.out, {**about, **result})


def _episodes(robot: str, policy: str, count: int, folder: Path) -> dict[str, Any]:
    rows = []
    for row in solve.episodes(robot, TASK, policy, range(count), folder):
        print(row, flush=True)
        rows.append(row)
    solved = sum(row["solved"] for row in rows)
    print(format_rate(solved, count))
    return {"task": TASK, "changes": solve.AS_TRAINED, "limits": "published", "solved": solved, "episodes": rows}


def _faults(robot: str, count: int, folder: Path) -> dict[str, Any]:
    config, server, fake = configs.load(robot), Server(), Fake(solve.FAKES[robot][0], SWING, robot)
    if robot == "so101":
        config = config.model_copy(update={"connection": feetech_motors.connection(config.connection, folder)})
    policy, rows = deployed.load(server.url, SWING, config), []
    try:
        for number, (fault, _) in enumerate(itertools.product(FAULTS[robot], range(count))):
            fake.ask("begin")
            driver = deployed.connected(config, fake.host)
            try:
                ended = deployed.run(fake, driver, policy, config, folder / f"{number}.rpdlog", fault)
            finally:
                driver.close()
            rows.append(_row(fault, ended))
            print(rows[-1], flush=True)
    finally:
        policy.close()
        fake.close()
        server.server.shutdown()
    return {"stop_within, s": config.stop_within, "faults": rows}


def _row(fault: str, ended: deployed.Faulty) -> dict[str, Any]:
    outcome, after = ended.outcome, ended.after
    stops = [[how, round(1000 * (at - ended.fault), 1)] for how, at in after.get("stops", [])]
    return {
        "fault": fault, "ended by": outcome.reason, "stop refused": outcome.stop_failure,
        "fault to stop command taken or refused, ms": round(1000 * (outcome.stopped_at - ended.fault), 1),
        "stops of the arm, ms after the fault": stops,
        "speed at the fault, rad/s": round(float(ended.speed), 3), "drift at rest, rad": after["drift"],
        "torque switched off": len(after.get("torque_off", [])), "newest frame": ended.frames[-1]["kind"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
