"""Statistics of actions, as OpenVLA keeps them beside its weights in ``dataset_statistics.json``."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.errors import ConfigError
from rpd.demos.episode import Array
from rpd.demos.reader import Demos


def dataset_statistics(demos: Demos, name: str) -> dict[str, Any]:
    """Return ``{name: {"action": {...}, "num_transitions": R, "num_trajectories": E}}`` of the labels.

    Labels, and not what was executed, are what is learnt. They are in the normalised space of the environment, whose spec says
    what that means; discrete dimensions (the gripper, whose sign counts) are masked, and so left as they are.

    Raises:
        ConfigError: the tasks have different actions.
    """
    specs = [spec.action for spec in demos.specs.values()]
    if any(spec.discrete != specs[0].discrete for spec in specs):
        raise ConfigError(f"no common statistics: the tasks {', '.join(demos.specs)} differ in their actions")
    labels = np.concatenate([demos.read(i, "label") for i in range(len(demos))])
    action = action_statistics(labels, specs[0].discrete if specs else (False,) * labels.shape[1])
    return {name: {"action": action, "num_transitions": len(labels), "num_trajectories": len(demos)}}


def action_statistics(actions: Array, discrete: tuple[bool, ...]) -> dict[str, list[Any]]:
    """Statistics of each dimension of actions [R, A]: mean, std (of the population), max, min, 1 % and 99 % quantile, mask.

    OpenVLA normalises a dimension by ``2 (a - q01) / (q99 - q01) - 1`` where mask is true, and leaves it alone elsewhere.
    """
    values = actions.astype(np.float64)
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    numbers = {"mean": values.mean(0), "std": values.std(0), "max": values.max(0), "min": values.min(0)}
    numbers |= {"q01": low, "q99": high}
    return {**{key: value.tolist() for key, value in numbers.items()}, "mask": [not d for d in discrete]}
