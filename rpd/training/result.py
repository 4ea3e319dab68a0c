"""What a finished run says of itself, result.json: reports, figures and sweeps read it."""

from __future__ import annotations

from typing import Any

from envs.specs import EnvSpec
from rpd.config import RunConfig
from rpd.evaluate import EvalResult, compare


def run_result(
    config: RunConfig,
    spec: EnvSpec,
    steps: int,
    wall: float,
    metrics: list[dict[str, float]],
    student: EvalResult,
    teacher: EvalResult | None = None,
    base: EvalResult | None = None,
    queries: int = 0,
) -> dict[str, Any]:
    """The content of result.json.

    Args:
        config: the run's.
        spec: of the environment.
        steps: taken.
        wall: seconds of training.
        metrics: the run's record, for the curve.
        student: its final evaluation.
        teacher: the teacher's, on the same episodes.
        base: of whom the student corrects.
        queries: observations that the teacher labelled.
    """
    curve = [
        [m["step"], m["eval/success"], round(m["eval/success"] * config.eval_episodes), config.eval_episodes]
        for m in metrics
        if "eval/success" in m
    ]
    return {
        "schema_version": 1,
        "task": config.task,
        "reward": spec.reward,
        "obs": config.env.obs,
        "robot": spec.embodiment.name,
        "mode": config.mode,
        "teacher": config.teacher if teacher else None,
        "seed": config.seed,
        "steps": steps,
        "wall_s": wall,
        "teacher_queries": queries,
        "student": student.to_dict(),
        "teacher_eval": None if teacher is None else teacher.to_dict(),
        "paired": None if teacher is None else vars(compare(student, teacher)),
        "base": config.base,
        "base_eval": None if base is None else base.to_dict(),
        "base_paired": None if base is None else vars(compare(student, base)),
        "curve": curve,
    }
