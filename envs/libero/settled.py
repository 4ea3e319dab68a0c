"""Stored initial states of LIBERO's episodes, settled with MuJoCo 3.3.0.

Published results use states settled with a MuJoCo before 3.4. Later versions changed box-box collisions (a fix of the distance
between two boxes), and some objects settle elsewhere: the bowl of spatial-5 slides off its ramekin in every episode.
`scripts/libero_settled.py` generates the files and measures the differences.

A file holds the states of a suite: ``<number>`` float32 [12 + nq + nv, N], one column per initial state: the controller's goal
(position, rotation matrix), qpos and qvel, at the time of the last observation during settling; and ``<number>.sha256``, the
hash of the initial states that they were computed from.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

VERSION = "3.3.0"
"""Version of MuJoCo that the states were settled with."""
FOLDER = Path(__file__).with_name("settled")
"""Folder of the files."""
_GOAL = 12


@dataclass(frozen=True)
class Start:
    """Start of an episode.

    Attributes:
        goal_pos: [3] goal position of the controller, m.
        goal_ori: [3, 3] goal orientation of the controller.
        qpos: [nq].
        qvel: [nv].
    """

    goal_pos: np.ndarray
    goal_ori: np.ndarray
    qpos: np.ndarray
    qvel: np.ndarray

    def to_vector(self) -> np.ndarray:
        """Flatten to [D] float32."""
        return np.concatenate([self.goal_pos, self.goal_ori.ravel(), self.qpos, self.qvel]).astype(np.float32)

    @classmethod
    def from_vector(cls, vector: np.ndarray, nq: int) -> Start:
        """Inverse of `to_vector`, up to single precision."""
        pos, ori, qpos, qvel = np.split(vector.astype(np.float64), [3, _GOAL, _GOAL + nq])
        return cls(pos, ori.reshape(3, 3), qpos, qvel)


def load(suite: str, number: int, initial: np.ndarray) -> np.ndarray | None:
    """Load the settled states of a task.

    Args:
        suite: e.g. ``spatial``.
        number: number of the task within the suite.
        initial: initial states [N, D] of the distribution.

    Returns:
        [N, D] float32, see `Start`; None if none are stored for these initial states.
    """
    if not exists(suite):
        return None
    with np.load(_file(suite), allow_pickle=False) as content:
        if str(content.get(f"{number}.sha256", "")) != digest(initial):
            return None
        return content[str(number)].T


def exists(suite: str) -> bool:
    """Whether settled states of a suite are stored."""
    return _file(suite).is_file()


def digest(initial: np.ndarray) -> str:
    """SHA-256 of initial states."""
    return hashlib.sha256(np.ascontiguousarray(initial, np.float64).tobytes()).hexdigest()


def _file(suite: str) -> Path:
    return FOLDER / f"{suite}.npz"
