"""Entries of a generalist's result.json: comparisons with the specialists, and with the base on held-out robots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rpd.core.distributed import World
from rpd.core.seeds import FINAL_SEED
from rpd.envs.errors import SpecMismatch
from rpd.envs.vector_env import VectorEnv
from rpd.evaluation.evaluate import EvalResult, compare, evaluate
from rpd.policies.builtin import StudentPolicy
from rpd.students.actor_critic import ActorCritic
from rpd.students.io.policy_path import resolve_policy
from rpd.students.residual import ResidualActorCritic
from rpd.training.specialists import Cell


def cell_result(cell: Cell, student: EvalResult, specialist: EvalResult) -> dict[str, Any]:
    """Compare the generalist with a specialist on the same episodes.

    Args:
        cell: the specialist and its environment.
        student: the generalist's evaluation.
        specialist: the specialist's evaluation.
    """
    return {
        "task": cell.task, "robot": cell.robot, "run": str(cell.run),
        "identity": cell.identity, "base": cell.result().get("base_eval"),
        "specialist": specialist.to_dict(), "generalist": student.to_dict(),
        "paired": vars(compare(student, specialist)),
        "outcomes": [[a.success_once, b.success_once] for a, b in zip(student.episodes, specialist.episodes, strict=True)],
    }  # fmt: skip


def base_result(
    cells: Sequence[Cell], env: VectorEnv, episodes: int, device: torch.device, world: World
) -> dict[str, Any] | None:
    """Evaluate the base of a task's specialists on a held-out robot.

    Args:
        cells: the specialists.
        env: environment of the held-out robot.
        episodes: number of episodes.
        device: device of the base.
        world: ranks that share the episodes.

    Returns:
        The evaluation; None if the specialists have no internal base, or the base does not fit the robot.
    """
    cell = next(cell for cell in cells if cell.task == env.spec.task)
    specialist = ActorCritic.from_pretrained(resolve_policy(cell.run), device)
    base = specialist.base if isinstance(specialist, ResidualActorCritic) else None
    if base is None:
        return None
    try:
        base.adapt_to(env.spec)
    except SpecMismatch:
        return None
    return evaluate(env, StudentPolicy(base, "base"), episodes, FINAL_SEED, world=world).to_dict()
