"""Observations of teachers: the student's, and the images of teacher-only cameras."""

from __future__ import annotations

from typing import Protocol

from tensordict import TensorDict
from torch import Tensor

from rpd.envs.vector_env import VectorEnv


class Observer(Protocol):
    """A teacher or a policy."""

    needs_teacher_images: bool
    """See `rpd.teachers.base.Teacher`."""


def teacher_observation(env: VectorEnv, obs: TensorDict, teacher: Observer, rows: Tensor | None = None) -> TensorDict:
    """Return the newest observation of an environment [N] with the teacher-only images, if the teacher needs them.

    Args:
        env: the environment that returned `obs`.
        obs: [N] the newest observation; it is not modified.
        teacher: the teacher or policy that reads the result.
        rows: [K] indices of the environments to return and render, ascending; None: all.
    """
    shown = obs.copy() if rows is None else obs[rows]
    return shown.update(env.teacher_images(rows)) if teacher.needs_teacher_images else shown
