"""Action statistics in the format of OpenVLA's ``dataset_statistics.json``."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from rpd.datasets.episode import Array
from rpd.datasets.reader import Demos
from rpd.envs.errors import ConfigError
from rpd.envs.specs import ActionSpec
from rpd.teachers.vla.reach import is_one_sided

LOG = logging.getLogger(__name__)


def dataset_statistics(demos: Demos, name: str) -> dict[str, Any]:
    """Return ``{name: {"action": {...}, "num_transitions": R, "num_trajectories": E}}`` of the labels.

    The statistics are of the labels, the training targets, not of the executed actions. Labels are in the normalized action
    space of the environment's spec; discrete dimensions (the gripper, whose sign counts) are masked, i.e. not rescaled.

    Raises:
        ConfigError: the tasks have different actions, or see `check_signs`.
    """
    specs = [spec.action for spec in demos.specs.values()]
    if any(spec.discrete != specs[0].discrete for spec in specs):
        raise ConfigError(f"no common statistics: the tasks {', '.join(demos.specs)} differ in their actions")
    labels = np.concatenate([demos.read(i, "label") for i in range(len(demos))])
    if specs:
        check_signs(labels, specs[0], ", ".join(demos.specs))
    action = action_statistics(labels, specs[0].discrete if specs else (False,) * labels.shape[1])
    return {name: {"action": action, "num_transitions": len(labels), "num_trajectories": len(demos)}}


def check_signs(labels: Array, space: ActionSpec, tasks: str) -> None:
    """Reject labels [R, A] in another convention, e.g. a gripper of 0 to 1: a model trained on them would always open it.

    A gripper that is always 0 was never commanded, as in ManiSkill's recordings of tasks without a grasp; it logs a warning.

    Raises:
        ConfigError: names the dimension, its range, and the expected range.
    """
    for name, discrete, low, high in zip(space.names, space.discrete, labels.min(0), labels.max(0), strict=True):
        if discrete and low == high == 0:
            LOG.warning(f"demonstrations of {tasks}: '{name}' is always 0, neither +1 nor -1: students choose it at random")
        elif discrete and is_one_sided(low, high):
            raise ConfigError(
                f"demonstrations of {tasks}: '{name}' ranges from {low:g} to {high:g}, all on one side of 0: "
                "of a discrete action only the sign counts, +1 opens and -1 closes"
            )


def action_statistics(actions: Array, discrete: tuple[bool, ...]) -> dict[str, list[Any]]:
    """Statistics per dimension of actions [R, A]: mean, population std, max, min, 1 % and 99 % quantile, mask.

    OpenVLA normalizes a dimension by ``2 (a - q01) / (q99 - q01) - 1`` where mask is true, and does not rescale the others:
    discrete dimensions, and constant ones.
    """
    values = actions.astype(np.float64)
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    numbers = {"mean": values.mean(0), "std": values.std(0), "max": values.max(0), "min": values.min(0)}
    numbers |= {"q01": low, "q99": high}
    normalised = ~np.array(discrete, bool) & (high > low) & (numbers["std"] > 0)
    return {**{key: value.tolist() for key, value in numbers.items()}, "mask": normalised.tolist()}
