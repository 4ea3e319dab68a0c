"""Batches of single steps for behavior cloning, drawn from demonstrations that fit the environment and the student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from tensordict import TensorDict

from rpd.datasets.corrections import probabilities
from rpd.datasets.reader import Demos, open_demos
from rpd.datasets.statistics import check_signs
from rpd.datasets.steps import Rows
from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.envs.specs import EnvSpec
from rpd.students.config import StudentConfig
from rpd.students.row_share import RowShare


class DemoSource:
    """Draws rows of demonstrations.

    Args:
        paths: see `rpd.datasets.reader.open_demos`.
        spec: spec of the student's environment.
        config: the student's; with `state_estimator` or `asymmetric_critic` recorded privileged states are read too.
        generator: random generator of the draws.
        intervention_fraction: see `rpd.datasets.corrections.probabilities`.

    Raises:
        ConfigError: no demonstrations of the task, or the student reads a field that was not recorded; see also `check_signs`.
        SpecMismatch: they were recorded with another robot or action space; names both sides.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        spec: EnvSpec,
        config: StudentConfig,
        generator: torch.Generator,
        intervention_fraction: float = 0.5,
    ) -> None:
        demos = demonstrations(paths, spec.task, understand=True)
        _check(demos, spec)
        weights = probabilities(demos, intervention_fraction)
        self._cumulative = None if weights is None else weights.cumsum(0).to(generator.device)
        check_signs(np.concatenate([demos.read(i, "label") for i in range(len(demos))]), spec.action, spec.task)
        scene = config.state_estimator or config.asymmetric_critic
        keys = ["state", *spec.cameras, *(["privileged"] if scene else [])]
        for key in keys:
            if key not in demos.keys:
                fix = "record with --privileged True, or turn off student.state_estimator and student.asymmetric_critic"
                fix = fix if key == "privileged" else f"recorded: {', '.join(demos.keys)}"
                raise ConfigError(f"the demonstrations have no '{key}', which the student reads: {fix}")
        self.rows, self.spec, self.generator = Rows(demos, [*keys, "label"], frames=spec.frames), spec, generator
        self.columns = torch.tensor([demos.state_names.index(name) for name in spec.state_names])
        for key in spec.cameras:
            there, here = demos.read(0, key, [0]).shape[1:], spec.stacked(1).observations[key].shape
            if there != here:
                raise SpecMismatch(
                    f"demonstrations do not fit: {key} was recorded as {list(there)}, the student sees {list(here)}"
                )

    @property
    def states(self) -> torch.Tensor:
        """[R, S] the state of every row, in the environment's order."""
        return self.rows.column("state")[:, self.columns]

    def indices(self, share: RowShare) -> torch.Tensor:
        """Draw `share.total` rows with replacement, and return the indices [share.count] of this process's."""
        device = self.generator.device
        if self._cumulative is None:
            drawn = torch.randint(len(self.rows), (share.total,), generator=self.generator, device=device)
        else:  # the first row whose cumulative probability exceeds the draw: never one of probability 0
            point = torch.rand(share.total, generator=self.generator, device=device, dtype=torch.float64)
            drawn = torch.searchsorted(self._cumulative, point * self._cumulative[-1], right=True).clamp_max(len(self.rows) - 1)
        return share.of(drawn).cpu()

    def draw(self, share: RowShare) -> TensorDict:
        """Draw a process's share of rows [count]: ``obs``, and ``actions`` [count, A] in [-1, 1]; see `indices`."""
        index, device = self.indices(share), self.generator.device
        rows = self.rows[index]
        label = cast("torch.Tensor", rows.pop("label"))
        rows["state"] = rows["state"][:, self.columns]
        return TensorDict({"obs": rows, "actions": label.clamp(-1, 1)}, batch_size=[share.count]).to(device)


def demonstrations(paths: Sequence[Path], task: str, understand: bool = False) -> Demos:
    """Open the demonstrations of a task, see `rpd.datasets.reader.open_demos`.

    Raises:
        ConfigError: there are none.
    """
    if not paths:
        raise ConfigError("algorithm bc needs demonstrations: add --demos, e.g. --demos demos/x; see `rpd data collect`")
    return open_demos(*paths, understand=understand, task=task).select(tasks=[task])


def _check(demos: Demos, spec: EnvSpec) -> None:
    """Reject demonstrations with other actions or state entries."""
    if spec.task not in demos.specs:
        raise ConfigError(
            f"these demonstrations have no spec of their actions: record them with `rpd data collect {spec.task}`"
        )
    theirs = demos.specs[spec.task]
    missing = [name for name in spec.state_names if name not in demos.state_names]
    for what, a, b in (
        ("robot", theirs.embodiment.name, spec.embodiment.name),
        ("actions", str(theirs.action), str(spec.action)),
        ("control rate", f"{theirs.control_hz:g} Hz", f"{spec.control_hz:g} Hz"),
        ("state entries", f"no {', '.join(missing[:4])}" if missing else "", "these" if missing else ""),
    ):
        if a != b:
            raise SpecMismatch(
                f"demonstrations do not fit environment: {what} differ: demonstrations of {theirs.task} have {a}; "
                f"environment ({spec.embodiment.name}) has {b}"
            )
