"""Behaviour cloning of a student: batches as a rollout would make them, drawn from demonstrations, their labels the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from tensordict import TensorDict

from envs.errors import ConfigError, SpecMismatch
from envs.specs import EnvSpec
from rpd.batch import PREFIX
from rpd.demos.reader import Demos, open_demos
from rpd.demos.rows import Rows
from students.config import StudentConfig


class DemoSource:
    """Draws rows of demonstrations.

    Args:
        paths: see `rpd.demos.reader.open_demos`.
        spec: of the environment that the student is for.
        config: the student's: with `perceive` or `asymmetric_critic` it also reads recorded scenes.
        generator: draws.

    Raises:
        ConfigError: no demonstrations of the task, or without something that the student reads.
        SpecMismatch: they were recorded with another robot or action space; names both sides.
    """

    def __init__(self, paths: Sequence[Path], spec: EnvSpec, config: StudentConfig, generator: torch.Generator) -> None:
        demos = demonstrations(paths, spec.task, understand=True)
        _check(demos, spec)
        scene = config.perceive or config.asymmetric_critic
        keys = ["state", *spec.cameras, *(["privileged"] if scene else [])]
        for key in keys:
            if key not in demos.keys:
                fix = "record with --privileged True, or turn off student.perceive and student.asymmetric_critic"
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

    def draw(self, count: int) -> TensorDict:
        """Draw [count] rows with replacement: ``obs``, and the label as the answer of a teacher."""
        device = self.generator.device
        index = torch.randint(len(self.rows), (count,), generator=self.generator, device=device).cpu()
        rows = self.rows[index]
        label = cast("torch.Tensor", rows.pop("label"))
        rows["state"] = rows["state"][:, self.columns]
        valid = torch.ones(count, dtype=torch.bool)
        return TensorDict({"obs": rows, PREFIX + "mean": label.clamp(-1, 1), PREFIX + "valid": valid}, batch_size=[count]).to(
            device
        )


def demonstrations(paths: Sequence[Path], task: str, understand: bool = False) -> Demos:
    """Open the demonstrations of a task, see `rpd.demos.reader.open_demos`.

    Raises:
        ConfigError: there are none.
    """
    if not paths:
        raise ConfigError("mode bc needs demonstrations: add --demos, e.g. --demos demos/x; see `rpd collect`")
    return open_demos(*paths, understand=understand).select(tasks=[task])


def _check(demos: Demos, spec: EnvSpec) -> None:
    """Refuse demonstrations whose actions or states mean something else."""
    if spec.task not in demos.specs:
        raise ConfigError(
            f"nothing says what the actions of these demonstrations mean: record them with `rpd collect {spec.task}`"
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
