"""Comparison of the samplers of a diffusion policy: success, network evaluations and time per action."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from rpd.bench.result import Benchmark, Column
from rpd.config.evaluation import EvalConfig
from rpd.core.statistics import PairedResult, format_rate
from rpd.envs import registry as envs
from rpd.envs.errors import ConfigError
from rpd.envs.vector_env import VectorEnv
from rpd.evaluation.environments import environments
from rpd.evaluation.evaluate import EvalResult, compare, evaluate
from rpd.policies.loading import load_policy
from rpd.reporting.charts import Chart, Series
from rpd.reporting.figure import svg
from rpd.reporting.page import json_details, render
from rpd.reporting.text import paired_text
from rpd.runs.provenance import environment_info
from rpd.students.diffusion.actor import DiffusionActor
from rpd.students.diffusion.config import DiffusionConfig
from rpd.students.diffusion.samplers.rti import RealTimeIteration

LOG = logging.getLogger(__name__)

TIMED = 24
"""Number of timed actions, in one environment."""


@dataclass(frozen=True)
class Method:
    """Measurements of one sampler."""

    sampler: str
    result: EvalResult
    evaluations: float
    """Network evaluations per action."""
    ms: float
    """CPU time per action, one environment, one thread, ms; equals the wall time on an idle core."""
    worst_ms: float
    """CPU time of the slowest action, ms."""
    paired: PairedResult | None
    """Difference to the first method; None for the first."""
    chosen: list[int] | None = None
    """Levels of a warm start."""
    fallbacks: float | None = None
    """Fraction of chunks whose warm start was rejected."""


@dataclass(frozen=True)
class Comparison:
    """Measurements of the samplers of one policy in one task."""

    policy: str
    task: str
    methods: list[Method]


def default_samplers(config: DiffusionConfig, n_action_steps: int) -> list[str]:
    """Samplers that a policy supports, full denoising first."""
    few = {"ddpm": ["ddpm", "ddim:steps=16", "ddim:steps=4"], "flow": ["euler:steps=100", "euler:steps=16", "euler:steps=4"]}
    names = few[config.process] + [f"rti:timesteps={n}" for n in (1, 3, 5, "auto")]
    if config.noise == "action" and config.horizon % n_action_steps == 0:
        names.append(f"streaming:steps={max(1, n_action_steps)}")
    if n_action_steps < config.horizon:
        names.append("rtc:steps=16,delay=1")
    return [_executing(name, n_action_steps) for name in names] + [f"{few[config.process][1]},ensemble=0.01"]


def measure(
    policy: str, task: str | None, samplers: tuple[str, ...], n_action_steps: int, episodes: int, seed: int, device: str
) -> Comparison:
    """Evaluate each sampler on the same episodes, and time it.

    Args:
        policy: run, checkpoint or policy folder.
        task: None: task of the policy.
        samplers: see `rpd.students.diffusion.samplers`; empty: `default_samplers`.
        n_action_steps: executed actions per chunk, for samplers that do not specify it.
        episodes: episodes per sampler.
        seed: seed of the first episode.
        device: device of the policy.

    Raises:
        ConfigError: not a diffusion policy, or a sampler that it does not support.
    """
    name, (config,) = environments(EvalConfig(policy=policy, task=task, episodes=episodes), [policy])
    with contextlib.closing(envs.make(name, config, device, 1)) as env:
        actor = load_policy(policy, env)
        if not isinstance(actor, DiffusionActor):
            raise ConfigError(f"{policy} is not a diffusion policy: train one with --student diffusion")
        network = actor.policy
        chosen = [_executing(s, n_action_steps) for s in samplers] or default_samplers(network.config, n_action_steps)
        actors = [DiffusionActor(network, sampler, sampler) for sampler in chosen]  # before the first episode
        single = config.model_copy(update={"num_envs": 1})
        methods: list[Method] = []
        with contextlib.closing(envs.make(name, single, device, 1)) as alone:
            for actor in actors:
                methods.append(_measure(env, alone, actor, episodes, seed, methods[0].result if methods else None))
                LOG.info(f"{actor.name}: {format_rate(methods[-1].result.successes, episodes)}")
    return Comparison(policy, name, methods)


def _measure(
    env: VectorEnv, alone: VectorEnv, actor: DiffusionActor, episodes: int, seed: int, first: EvalResult | None
) -> Method:
    result = evaluate(env, actor, episodes, seed)
    per_action, sampler = actor.evaluations_per_action, actor.sampler
    ms, worst = _time(alone, actor, seed)
    method = Method(actor.name, result, per_action, ms, worst, None if first is None else compare(result, first))
    if isinstance(sampler, RealTimeIteration):
        return replace(method, chosen=sampler.levels, fallbacks=sampler.fallbacks / max(1, sampler.warm))
    return method


@torch.no_grad()
def _time(env: VectorEnv, actor: DiffusionActor, seed: int) -> tuple[float, float]:
    """Mean and maximum CPU time per action, ms, in one environment."""
    spent: list[float] = []
    obs = env.reset(seed)
    actor.reset(torch.ones(env.num_envs, dtype=torch.bool))
    while len(spent) < TIMED + 1:
        began = time.process_time()
        action = actor.act(obs, env.instructions)
        spent.append(1000 * (time.process_time() - began))
        step = env.step(action)
        obs = step.obs
        actor.reset(step.terminated | step.truncated)
    return sum(spent[1:]) / TIMED, max(spent[1:])  # without the warm-up


def tabulate(report: Comparison) -> Benchmark:
    """Table, figure, and a page with both."""
    columns = (
        Column("sampler"), Column("success (95 %)"), Column("difference, points"), Column("evaluations / action", ".2f"),
        Column("CPU ms / action", ".2f"), Column("worst", ".2f"),
    )  # fmt: skip
    full = report.methods[0]
    title = f"{report.task}: {report.policy}, {full.result.n} episodes, differences to {full.sampler}"
    methods = [
        {"sampler": m.sampler, **m.result.to_dict(), "evaluations_per_action": m.evaluations, "cpu_ms_per_action": m.ms,
         "cpu_ms_worst": m.worst_ms, "paired": None if m.paired is None else asdict(m.paired), "levels": m.chosen,
         "fallbacks": m.fallbacks}
        for m in report.methods
    ]  # fmt: skip
    details = {"policy": report.policy, "task": report.task, "compared_with": full.sampler, "methods": methods}
    found = Benchmark(title, columns, details=details)
    for m in report.methods:
        difference = "" if m.paired is None else f"{100 * m.paired.diff:+.1f} {paired_text(vars(m.paired))}"
        label = m.sampler + (f" → {len(m.chosen)}" if m.chosen and "auto" in m.sampler else "")
        rate = format_rate(m.result.successes, m.result.n)
        found.rows.append((label, rate, difference, m.evaluations, m.ms, m.worst_ms))
    charts = sampler_charts([details])
    page = render(
        "samplers.html",
        title=report.task,
        policy=report.policy,
        columns=[c.name for c in columns],
        rows=found.cells,
        charts=charts,
        details=[json_details("Versions and machine", environment_info())],
        mark="",
    )
    found.files = {"figure.svg": svg(charts), "report.html": page}
    return found


def sampler_charts(reports: list[dict[str, Any]]) -> list[Chart]:
    """Success over network evaluations per action, a chart per bench.json."""
    families: dict[str, int] = {}
    charts = []
    for report in reports:
        points: dict[str, list[tuple[float, float]]] = {}
        for m in report["methods"]:
            family = _family(m["sampler"])
            families.setdefault(family, len(families))
            points.setdefault(family, []).append((max(m["evaluations_per_action"], 1e-2), m["rate"]))
        lines = [
            Series(family, [x for x, _ in sorted(found)], [y for _, y in sorted(found)], index=families[family])
            for family, found in points.items()
        ]
        charts.append(Chart(report["task"], lines, x_label="network evaluations per action", percent=True, log_x=True))
    return charts


def _family(sampler: str) -> str:
    """Group of a sampler; the samplers of a group share a line in the figure."""
    if "ensemble" in sampler:
        return "ensemble"
    name, _, options = sampler.partition(":")
    return "rti, from higher up" if name == "rti" and ("start_timestep=" in options or "auto" in options) else name


def _executing(sampler: str, n_action_steps: int) -> str:
    """Append the number of executed actions to a sampler, unless it specifies it."""
    if "n_action_steps=" in sampler or "ensemble=" in sampler:
        return sampler
    return f"{sampler}{',' if ':' in sampler else ':'}n_action_steps={n_action_steps}"
