"""Settle LIBERO's initial states with MuJoCo 3.3.0, and measure how they move with the installed MuJoCo.

    python -m venv v && v/bin/pip install -e '.[libero]' && v/bin/pip install --no-deps mujoco==3.3.0
    v/bin/python scripts/libero_settled.py make spatial object goal 10 90     # writes envs/libero/settled/<suite>.npz
    python scripts/libero_settled.py check spatial-5 10                       # with the installed MuJoCo: tasks or suites

`make` resumes after an interruption. `check` prints, per task, how far things end from the stored states when
they settle with the installed MuJoCo, and how far they move in 10 control steps of rest from the stored states;
`--out` adds it to a JSON file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from rpd.envs.libero import settled, tasks
from rpd.envs.libero.world import _REST, INSTALLED, World

APART = 0.005
"""m: states in which something ends further away than this are counted."""
STEPS = 10


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "check"))
    parser.add_argument("names", nargs="+", help="suites, or tasks (check), without libero/")
    parser.add_argument("--out", type=Path, help="check: JSON file")
    options = parser.parse_args()
    for name in options.names:
        for task in tasks.resolve(tasks.PREFIX + name):
            if options.what == "make":
                make(task)
            else:
                check(task, options.out)


def make(task: tasks.Task) -> None:
    """Settle the states of a task, and add them to its suite's file."""
    if mujoco.__version__ != settled.VERSION:
        raise SystemExit(f"MuJoCo {mujoco.__version__} is installed: the states are those of {settled.VERSION}")
    file = settled.FOLDER / f"{task.suite}.npz"
    known = dict(np.load(file)) if file.exists() else {}
    if str(task.number) in known:
        return
    _old_calls()
    world = World(task, INSTALLED)
    slot, starts = world.slot(), []
    for number in range(len(world.init_states)):
        world.settle(slot, number)
        starts.append(_start(world, slot).to_vector())
    known |= {str(task.number): np.stack(starts, axis=1), f"{task.number}.sha256": settled.digest(world.init_states)}
    settled.FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(file, **known)
    print(f"{task.name}: {len(starts)} states, {file.stat().st_size / 1024:.0f} KiB", flush=True)


def check(task: tasks.Task, out: Path | None) -> None:
    """Compare a task's stored states with those that settle with the installed MuJoCo."""
    world = World(task, settled.VERSION)
    slot, apart, moved = world.slot(), [], []
    for number in range(len(world.init_states)):
        world.settle(slot, number)
        played = _positions(world, slot)
        world.reset(slot, number)
        stored = _positions(world, slot)
        apart.append(_distances(played, stored))
        for _ in range(STEPS):
            world.step(slot, _REST)
        moved.append(_distances(_positions(world, slot), stored))
    row = _summary(world, np.array(apart), np.array(moved))
    print(f"{task.name}: {row}", flush=True)
    if out is not None:
        rows = json.loads(out.read_text()) if out.exists() else {}
        out.write_text(json.dumps(rows | {task.name: row}, indent=1) + "\n")


def _start(world: World, slot: Any) -> settled.Start:
    """The state at the last observation, out of MuJoCo's own layout."""
    moment, data = slot.moment, mujoco.MjData(world.model)
    world._set_physics(data, moment.physics)
    return settled.Start(moment.goal_pos, moment.goal_ori, data.qpos.copy(), data.qvel.copy())


def _positions(world: World, slot: Any) -> np.ndarray:
    """Positions [K, 3] of the movable objects, m."""
    return slot.data._data.qpos[_things(world)[:, None] + np.arange(3)]


def _things(world: World) -> np.ndarray:
    return world.model.jnt_qposadr[world.model.jnt_type == mujoco.mjtJoint.mjJNT_FREE]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a - b, axis=-1)


def _summary(world: World, apart: np.ndarray, moved: np.ndarray) -> dict[str, Any]:
    """Numbers of a task in mm [N states, K things]."""
    return {
        "mujoco": mujoco.__version__,
        "states": len(apart),
        "other states": int((apart > APART).any(1).sum()),
        "furthest mm": round(float(apart.max()) * 1000, 2),
        "which": _name(world, int(apart.max(0).argmax())),
        "moves from stored mm": round(float(moved.max()) * 1000, 2),
        "moved states": int((moved > APART).any(1).sum()),
    }


def _name(world: World, thing: int) -> str:
    joints = np.flatnonzero(world.model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
    return world.model.body(world.model.jnt_bodyid[joints[thing]]).name.removesuffix("_main")


def _old_calls() -> None:
    """Let `rpd.envs.libero.controller` call `mj_fullM` as MuJoCo has it since 3.4."""
    if hasattr(mujoco, "_full_mass"):
        return
    mujoco._full_mass = mujoco.mj_fullM

    def full_mass(model: Any, data: Any, out: Any) -> None:
        if isinstance(data, mujoco.MjData):
            mujoco._full_mass(model, out, data.qM)
        else:  # robosuite's own call
            mujoco._full_mass(model, data, out)

    mujoco.mj_fullM = full_mass


if __name__ == "__main__":
    main()
