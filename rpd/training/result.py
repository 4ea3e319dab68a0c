"""Content of result.json, the summary of a completed run; read by reports, figures and sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rpd.config.schema import RunConfig
from rpd.envs.specs import EnvSpec
from rpd.evaluation.evaluate import EvalResult, compare


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
    sources: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """Return the content of result.json.

    Args:
        config: configuration of the run.
        spec: spec of the environment.
        steps: steps of the run.
        wall: seconds of training.
        metrics: logged metrics, for the learning curve.
        student: final evaluation of the student.
        teacher: evaluation of the teacher on the same episodes; None: no teacher.
        base: evaluation of the base on the same episodes; None: no base.
        queries: number of observations that the teacher labeled.
        sources: identities of teacher, base and initial policy, see `rpd.policies.identity.sources`.
    """
    curve = [
        [m["step"], m["eval/success_once"], round(m["eval/success_once"] * config.eval_episodes), config.eval_episodes]
        for m in metrics
        if "eval/success_once" in m
    ]
    return {
        "schema_version": 1,
        "task": config.task,
        "reward": spec.reward,
        "obs_mode": config.env.obs_mode,
        "robot": spec.embodiment.name,
        "algorithm": config.algorithm,
        "teacher": config.teacher if teacher else None,
        "sources": dict(sources or {}),
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
