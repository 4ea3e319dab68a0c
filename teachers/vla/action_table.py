"""Describe the units of a teacher's actions in an environment: one table for every family."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rpd.envs.specs import EnvSpec
from rpd.teachers.base import Description, Input
from rpd.teachers.vla.action_mapping import ActionMap, ActionMapping, Dimension, connect, one_sided, own_action_mapping
from rpd.teachers.vla.reach import Reach

FLAT = 1e-3
"""Half the range of a dimension, in environment units, below which a teacher effectively never moves it."""
LEVELS = np.array([-1.0, 0.0, 1.0])
"""Normalized values of a model or environment that the table shows."""


def describe_teacher(
    facts: dict[str, str],
    inputs: list[Input],
    action_mapping: ActionMapping,
    outputs: np.ndarray,
    spec: EnvSpec,
    teacher: str,
    reach: Reach | None = None,
) -> Description:
    """Describe a teacher: facts of its family, inputs of its model, and units of its actions.

    Args:
        facts: see `Description`.
        inputs: see `rpd.teachers.inputs`.
        action_mapping: units of its actions.
        outputs: [3, A] the teacher's values for model outputs -1, 0 and +1.
        spec: the environment.
        teacher: its name, for messages.
        reach: range of its outputs; None: unknown.

    Raises:
        SpecMismatch: dimensions, units, frame or rate differ from the environment's.
    """
    action_map = connect(action_mapping, outputs.shape[1], spec, teacher)
    refusal = None if reach is None else one_sided(action_mapping, action_map, spec, teacher, reach)
    return Description(facts, action_rows(action_mapping, outputs, spec, action_map, reach), inputs, refusal)


def describe_own_actions(
    facts: dict[str, str], inputs: list[Input], spec: EnvSpec, teacher: str, gain: Sequence[float] | None = None
) -> Description:
    """Describe a teacher with normalized actions that can have either sign in discrete dimensions.

    Args:
        facts: see `Description`.
        inputs: see `rpd.teachers.inputs`.
        spec: the environment.
        teacher: its name, for messages.
        gain: see `rpd.teachers.vla.action_mapping.own_action_mapping`.
    """
    dim = spec.action.dim
    reach = Reach(-np.ones(dim), np.ones(dim), "an action space of -1 to 1")
    outputs = np.repeat(LEVELS[:, None], dim, 1)
    return describe_teacher(facts, inputs, own_action_mapping(spec.action, gain), outputs, spec, teacher, reach)


def action_rows(
    action_mapping: ActionMapping, outputs: np.ndarray, spec: EnvSpec, action_map: ActionMap, reach: Reach | None
) -> list[dict[str, str]]:
    """Meaning of -1, 0 and +1 on each side, one row per dimension; for the arguments see `describe_teacher`."""
    in_env = action_map.to_env(outputs)
    rows = []
    for i, name in enumerate(spec.action.names):
        discrete, theirs = spec.action.discrete[i], action_mapping.dimension(name)
        size, unit = spec.action.scale[i], spec.action.units[i]
        rows.append(
            {
                "dimension": name,
                "model's -1, 0, +1": _numbers(outputs[:, i]),
                "which means": _sides(outputs[:, i], in_env[:, i]) if discrete else f"{_numbers(in_env[:, i] * size)} {unit}",
                "environment's number": _numbers(in_env[:, i]),
                "its -1, 0, +1": _sides(LEVELS, LEVELS) if discrete else f"{_numbers(LEVELS * size)} {unit}",
                "mapping": _gripper(action_mapping, name) if discrete else _unit(theirs, in_env[:, i]),
                "range": "not known" if reach is None else reach.words(i),
            }
        )
    return rows


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3g}" for value in values + 0.0)  # + 0: no "-0"


def _sides(outputs: np.ndarray, in_env: np.ndarray) -> str:
    """E.g. ``0 closes, 0.5 opens, 1 opens``."""
    return ", ".join(f"{a:.4g} {'opens' if b >= 0 else 'closes'}" for a, b in zip(outputs + 0.0, in_env, strict=True))


def _gripper(action_mapping: ActionMapping, name: str) -> str:
    opened, closed = action_mapping.sides(name)
    return f"{opened:g} opens, {closed:g} closes, from {(opened + closed) / 2:g}"


def _unit(theirs: Dimension | None, in_env: np.ndarray) -> str:
    if abs(in_env[2] - in_env[0]) / 2 < FLAT:
        return "never moves"
    return "as the environment" if theirs is None else f"1 = {theirs.scale:g} {theirs.unit}"
