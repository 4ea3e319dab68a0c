"""Steps of a supervised deployment that are demonstrations: the corrections of the operator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rpd.datasets.deploy_log.format import OPERATOR
from rpd.datasets.episode import Array
from rpd.teachers.transport.codec import Message

GRIPPER_TIME = 0.5
"""Time that a gripper takes to close, s: standing still for so long after a command to it is part of the correction."""


def corrected(frames: Sequence[Message], hz: float) -> Array:
    """Steps [T] in which an operator was in control and acted.

    Pauses of a person are left out, because their labels would teach the policy to stand still.

    Args:
        frames: T frames with the answers of an episode, in order.
        hz: control steps per second.
    """
    flags, before, still = [], None, np.inf  # `still`: steps since the last command to the gripper
    for frame in frames:
        opens = frame["raw"][6] > 0
        still = 0 if before is not None and opens != before else still + 1
        before = opens
        acts = bool(np.any(frame["raw"][:6])) or still < GRIPPER_TIME * hz
        flags.append(frame.get("who") == OPERATOR and acts)
    return np.array(flags, dtype=bool)
