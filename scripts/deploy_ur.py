"""Measure `rpd deploy` through the real ur_rtde on the fake UR of tests/rpd/deploy/wire, with a simulated arm behind it.

python scripts/deploy_ur.py episodes runs/push --episodes 20 --out results/deploy/ur-episodes.json
python scripts/deploy_ur.py faults --out results/deploy/ur-faults.json

The policy of `episodes` acts on PushCube from state: rpd train tabletop/PushCube --env.robot ur5e --algorithm dagger
--teacher scripted --total-timesteps 100_000. Faults are measured with the limits of the shipped robot file, the ramp left out.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from rpd.core.files import write_json
from rpd.core.statistics import format_rate
from tests.rpd.deploy.wire import episodes, faults
from tests.rpd.deploy.wire.process import Fake

FAULTS = (
    "protective", "safeguard", "emergency", "pendant", "nan", "jump", "late", "gripper silent", "gripper wrong", "stall",
    "reset", "silent", "crash", "kill -9",
)  # fmt: skip


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("episodes", "faults"))
    parser.add_argument("policy", nargs="?")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "episodes":
            result = run_episodes(str(Path(given.policy).resolve()), given.episodes, Path(folder))
        else:
            result = {"faults": faults.measure(FAULTS, Path(folder))}
    about = {"ur_rtde": metadata.version("ur-rtde"), "machine": platform.platform(), "load": os.getloadavg()[0]}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(given.out, about | result)


def run_episodes(policy: str, count: int, folder: Path) -> dict[str, Any]:
    """Deploy a policy on seeds 0 to `count`; print and return the numbers."""
    fake = Fake("fake_ur", "tabletop/PushCube", "ur5e")
    try:
        robot = episodes.robot_file(folder, fake, "tracked-ur", "ur5e", **episodes.AS_SIMULATED)
        rows = []
        for seed in range(count):
            rows.append(episodes.episode(fake, policy, robot, seed, folder / f"{seed}.rpdlog"))
            print(rows[-1], flush=True)
    finally:
        fake.close()
    print(format_rate(sum(row["solved"] for row in rows), count))
    return {
        "task": "tabletop/PushCube",
        "changes": episodes.AS_SIMULATED,
        "solved": sum(row["solved"] for row in rows),
        "episodes": rows,
    }


if __name__ == "__main__":
    main()
