"""What a teacher's actions mean in an environment, in words: a table for people."""

from __future__ import annotations

import numpy as np

from envs.specs import EnvSpec
from teachers.bridge import Bridge, connect

FLAT = 1e-3
"""Half the range of a dimension, in environment units, below which a teacher never moves it."""


def action_rows(bridge: Bridge, ends: np.ndarray, spec: EnvSpec, teacher: str) -> list[dict[str, str]]:
    """What -1 and +1 mean on each side, one row per dimension.

    Args:
        bridge: what the teacher's actions mean.
        ends: [2, A] its actions where its model says -1, and +1.
        spec: the environment.
        teacher: its name, for messages.

    Raises:
        SpecMismatch: they do not fit.
    """
    action = spec.action
    in_env = connect(bridge, ends.shape[1], spec, teacher).to_env(ends)
    rows = []
    for i, name in enumerate(action.names):
        theirs = None if bridge.action is None else bridge.action[name]
        low, high = in_env[:, i]
        if action.discrete[i]:
            rule = "above 0 opens" if theirs is None else f"{theirs.open:g} opens, {theirs.closed:g} closes"
        elif abs(high - low) / 2 < FLAT:
            rule = "never moves"
        else:
            rule = "normalised as here" if theirs is None else f"1 = {theirs.scale:g} {theirs.unit}"
        ours = "closes, opens" if action.discrete[i] else f"{-action.scale[i]:g}, {action.scale[i]:g} {action.units[i]}"
        rows.append(
            {
                "dimension": name,
                "environment's -1 and +1": ours,
                "teacher's unit": rule,
                "model's -1 and +1": f"{ends[0, i]:.4g}, {ends[1, i]:.4g}",
                "in the environment": f"{low:.3g}, {high:.3g}",
            }
        )
    return rows
