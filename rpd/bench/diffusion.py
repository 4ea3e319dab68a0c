"""Samplers of a diffusion policy against each other: success, network evaluations and time per action."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from envs import registry as envs
from envs.base import VectorEnv
from envs.errors import ConfigError
from rpd import page
from rpd.bench.result import Benchmark, Column
from rpd.charts import Chart, Series, figure
from rpd.evaluate import EvalResult, compare, evaluate
from rpd.evaluation import EvalOptions, environments
from rpd.machine import environment_info
from rpd.policies import resolve
from rpd.stats import PairedResult, format_rate
from students.diffusion.actor import DiffusionActor
from students.diffusion.config import DiffusionConfig
from students.diffusion.samplers.rti import RealTimeIteration

TIMED = 24
"""Actions in one environment whose time is taken."""


@dataclass(frozen=True)
class Method:
    """One sampler, measured."""

    sampler: str
    result: EvalResult
    evaluations: float
    """Network evaluations per action."""
    ms: float
    """CPU milliseconds per action, one environment, one thread: on an idle core, the time that passes."""
    worst_ms: float
    """Of the dearest action."""
    paired: PairedResult | None
    """Against the first method; None of itself."""
    chosen: list[int] | None = None
    """Levels of a warm start."""
    fallbacks: float | None = None
    """Fraction of chunks for which a warm start was given up."""


@dataclass(frozen=True)
class Comparison:
    """Of one policy in one task."""

    policy: str
    task: str
    methods: list[Method]


def default_samplers(config: DiffusionConfig, execute: int) -> list[str]:
    """The methods that a policy can be drawn from by, full denoising first."""
    few = {"ddpm": ["ddpm", "ddim:steps=16", "ddim:steps=4"], "flow": ["euler:steps=100", "euler:steps=16", "euler:steps=4"]}
    names = few[config.process] + [f"rti:levels={n}" for n in (1, 3, 5, "auto")]
    if config.noise == "action" and config.horizon % execute == 0:
        names.append(f"streaming:steps={max(1, execute)}")
    if execute < config.horizon:
        names.append("rtc:steps=16,delay=1")
    return [_executing(name, execute) for name in names] + [f"{few[config.process][1]},ensemble=0.01"]


def measure(
    policy: str, task: str | None, samplers: tuple[str, ...], execute: int, episodes: int, seed: int, device: str
) -> Comparison:
    """Evaluate each sampler on the same episodes, and time it.

    Args:
        policy: run, checkpoint or policy folder.
        task: None: the policy's own.
        samplers: see `students.diffusion.samplers`; none: `default_samplers`.
        execute: actions of a chunk that are executed, where a sampler does not say it.
        episodes: of each.
        seed: of the first episode.
        device: where to compute.

    Raises:
        ConfigError: no diffusion policy, or a sampler that it cannot be drawn from by.
    """
    name, (config,) = environments(EvalOptions(policy=policy, task=task, episodes=episodes), [policy])
    with contextlib.closing(envs.make(name, config, device, 1)) as env:
        actor = resolve(policy, env)
        if not isinstance(actor, DiffusionActor):
            raise ConfigError(f"{policy} is no diffusion policy: train one with --student diffusion")
        network = actor.policy
        chosen = [_executing(s, execute) for s in samplers] or default_samplers(network.config, execute)
        actors = [DiffusionActor(network, sampler, sampler) for sampler in chosen]  # before the first episode
        single = config.model_copy(update={"num_envs": 1})
        methods: list[Method] = []
        with contextlib.closing(envs.make(name, single, device, 1)) as alone:
            for actor in actors:
                methods.append(_measure(env, alone, actor, episodes, seed, methods[0].result if methods else None))
                print(f"{actor.name}: {format_rate(methods[-1].result.successes, episodes)}", flush=True)
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
    """Mean and largest CPU time of an action, ms, in one environment."""
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
    return sum(spent[1:]) / TIMED, max(spent[1:])  # the first warms up


def tabulate(report: Comparison) -> Benchmark:
    """The table, the figure, and a page with both."""
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
        difference = "" if m.paired is None else f"{100 * m.paired.diff:+.1f} {page.paired_text(vars(m.paired))}"
        label = m.sampler + (f" → {len(m.chosen)}" if m.chosen and "auto" in m.sampler else "")
        rate = format_rate(m.result.successes, m.result.n)
        found.rows.append((label, rate, difference, m.evaluations, m.ms, m.worst_ms))
    svg = draw([details])
    body = page.section("Samplers", page.table([c.name for c in columns], found.cells)) + page.section("Success by cost", svg)
    body += page.section("Details", page.json_details("Versions and machine", environment_info()))
    written = page.document(report.task, f"samplers of <b>{page.escape(report.policy)}</b>", body)
    found.files = {"figure.svg": svg, "report.html": written}
    return found


def draw(reports: list[dict[str, Any]]) -> str:
    """Success over network evaluations per action, a chart per bench.json, as an SVG file."""
    families: dict[str, int] = {}
    charts = []
    for report in reports:
        points: dict[str, list[tuple[float, float]]] = {}
        for m in report["methods"]:
            family = _family(m["sampler"])
            families.setdefault(family, len(families))
            points.setdefault(family, []).append((max(m["evaluations_per_action"], 1e-2), m["rate"]))
        lines = [
            Series(family, [x for x, _ in sorted(found)], [y for _, y in sorted(found)], color=families[family])
            for family, found in points.items()
        ]
        charts.append(Chart(report["task"], lines, x_label="network evaluations per action", percent=True, log_x=True))
    return figure(charts, len(charts))


def _family(sampler: str) -> str:
    """What a sampler is a kind of: points of one line."""
    if "ensemble" in sampler:
        return "ensemble"
    name, _, options = sampler.partition(":")
    return "rti, from higher up" if name == "rti" and ("start=" in options or "auto" in options) else name


def _executing(sampler: str, execute: int) -> str:
    """A sampler that executes so many actions, unless it says how many."""
    if "execute=" in sampler or "ensemble=" in sampler:
        return sampler
    return f"{sampler}{',' if ':' in sampler else ':'}execute={execute}"
