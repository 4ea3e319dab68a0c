"""`rpd bench`: measure, and print a table."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table

from envs import registry as envs
from envs.base import EnvConfig, VectorEnv
from envs.errors import ConfigError
from rpd.bench.clock import clock, cpu_seconds
from rpd.machine import environment_info
from rpd.settings import train_options
from rpd.trainer import Trainer, resolve_device
from students.locate import resolve_policy
from teachers import registry as teachers

TASK = "tabletop/PickCube"
PARTS = ("env", "teacher", "inference", "update", "perception")


class BenchOptions(BaseModel):
    """Measure speed: environments alone, the parts of an iteration of training, a teacher, a policy server; or samplers."""

    model_config = ConfigDict(extra="forbid")

    what: tyro.conf.Positional[Literal["env", "train", "teacher", "octo", "serve", "export", "deploy", "diffusion"]]
    """env: control steps and images per second; train: the parts of an iteration; teacher: labels per second; octo:
    loading an Octo checkpoint, and its labels; serve: round trips of a question about images, with a policy that costs
    nothing; export: one action on one core, in torch and exported; deploy: a policy in the control loop, in real
    time, at several rates and delays, against its evaluation; diffusion: samplers of a diffusion policy, by success, network
    evaluations and time per action."""
    policy: tyro.conf.Positional[Path | None] = None
    """diffusion, deploy, export: a run, a checkpoint or a policy folder; export's default: new students of the usual sizes,
    from state and from images."""
    task: str = ""
    """Task; default: tabletop/PickCube; diffusion: the policy's."""
    num_envs: int = Field(128, ge=1)
    """Environments stepped together."""
    image_size: int | None = Field(None, ge=8, le=1024)
    """Height and width of an image, pixels; default: 64, and 224 for serve."""
    obs: Literal["state", "image"] = "state"
    """train: what the student sees."""
    teacher: str = "scripted"
    """train, teacher: who labels."""
    against: str | None = None
    """teacher: the same teacher with other options, e.g. a token cache: what they gain, and how far its answers move."""
    size: str = "octo-small-1.5"
    """octo: size of a model with random weights: octo-small-1.5, octo-base-1.5, or small, as zoo/tabletop-octo."""
    checkpoint: Path | None = None
    """octo: a folder in the original layout, in place of random weights."""
    samples: int = Field(32, ge=1)
    """octo: actions drawn per label."""
    samplers: tuple[str, ...] = ()
    """diffusion: what is compared, the first being what the others are compared with, e.g. ddpm rti:levels=3; default: all
    that the policy can be drawn from by, see docs/diffusion.md."""
    execute: int = Field(1, ge=1)
    """diffusion: actions of a chunk that are executed, where samplers does not say it."""
    episodes: int | None = Field(None, ge=1)
    """diffusion: episodes, on the same seeds for all (default 200); deploy: of the evaluation, and of every rate and delay
    (default 100)."""
    seed: int = Field(4_000_000, ge=0)
    """diffusion: seed of the first episode."""
    out: Path | None = None
    """diffusion: folder for table and figure; default: runs/bench-diffusion-...."""
    rounds: int = Field(5, ge=1)
    """Repetitions; the minimum, median and maximum are printed."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads."""


def main(options: BenchOptions) -> int:
    """Measure and print; returns the exit code."""
    torch.set_num_threads(options.num_threads or 1)
    machine = environment_info()["machine"]
    print(f"{machine['cpu']}, {machine['cores']} cores, gpus: {', '.join(machine['gpus']) or 'none'}")
    if options.what != "diffusion":
        options = options.model_copy(update={"task": options.task or TASK})
    if options.policy is not None and options.what not in ("export", "deploy", "diffusion"):
        raise ConfigError(f"rpd bench {options.what} measures no policy: leave out '{options.policy}'")
    benches = {
        "env": _bench_env, "train": _bench_train, "teacher": _bench_teacher, "octo": _bench_octo, "serve": _bench_serve,
        "export": _bench_export, "deploy": _bench_deploy, "diffusion": _bench_diffusion,
    }  # fmt: skip
    return benches[options.what](options)


def _bench_env(options: BenchOptions) -> int:
    if options.task.startswith("libero/"):
        return _bench_libero(options)
    table = _table(f"{options.task}, {options.num_envs} environments", "what", "min", "median", "max", "per CPU second")
    size = options.image_size or 64
    for label, config in (
        ("control steps/s, state", EnvConfig(num_envs=options.num_envs)),
        (
            f"images/s, {size} x {size}, stepping included",
            EnvConfig(num_envs=options.num_envs, obs="image", image_size=size),
        ),
    ):
        env = envs.make(options.task, config, resolve_device(options.device), options.num_threads)
        env.reset(0)
        steps = _stepper(env, 30 if config.obs == "state" else 5)
        count, began = steps(), cpu_seconds()
        rates = _rates(steps, options.rounds, env.device)
        ended = cpu_seconds()
        spent = "–" if began is None or ended is None else f"{count * (options.rounds + 1) / (ended - began):,.0f}"
        table.add_row(label, *(f"{r:,.0f}" for r in (min(rates), statistics.median(rates), max(rates))), spent)
        env.close()
        if env.spec.course:  # navigation has no images
            break
    Console().print(table)
    return 0


def _bench_libero(options: BenchOptions) -> int:
    from rpd.bench.libero import measure

    rows = measure(options.task, options.image_size or 128, options.rounds)
    table = _table(f"{options.task}: control steps/s", "what", "workers", "min", "median", "max", "MB per worker")
    for row in rows:
        rates = (min(row.rates), statistics.median(row.rates), max(row.rates))
        memory = f"{statistics.mean(row.private_mb):,.0f}" if row.private_mb else ""
        table.add_row(row.what, str(row.workers), *(f"{r:,.1f}" for r in rates), memory)
    Console().print(table)
    ratio = statistics.median(f / s for s, f in zip(rows[0].rates, rows[1].rates, strict=True))
    print(f"fast is {ratio:.2f} times as fast as the original (median of {options.rounds} rounds by turns)")
    return 0


def _bench_train(options: BenchOptions) -> int:
    args = [options.task, "--teacher", options.teacher, "--device", options.device, "--env.num-envs", str(options.num_envs)]
    args += ["--env.obs", options.obs, "--env.image-size", str(options.image_size or 64) if options.obs == "image" else "None"]
    args += ["--num-threads", str(options.num_threads), "--eval-episodes", "1", "--total-steps", str(10**9)]
    config = train_options(args).run_config()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, Path(folder))
        trainer.clock = trainer.collector.clock = clock(trainer.device)
        trainer.iterate()
        rows: list[dict[str, float]] = []
        for _ in range(options.rounds):
            began = trainer.clock()
            metrics = trainer.iterate()
            total = trainer.clock() - began
            rows.append({**{part: metrics.get(f"time/{part}", 0.0) for part in PARTS}, "iteration": total})
        trainer.close()
    steps = config.env.num_envs * config.ppo.num_steps
    table = _table(
        f"one iteration: {steps:,} steps, {config.ppo.epochs} epochs", "part", "min ms", "median ms", "max ms", "share"
    )
    median = statistics.median(row["iteration"] for row in rows)
    for part in (*(p for p in PARTS if any(row[p] for row in rows)), "iteration"):
        values = [1000 * row[part] for row in rows]
        cells = [f"{v:.0f}" for v in (min(values), statistics.median(values), max(values))]
        table.add_row(part, *cells, f"{statistics.median(values) / (10 * median):.0f} %")
    Console().print(table)
    print(f"training loop: {steps / median:,.0f} steps/s (median of {options.rounds})")
    return 0


def _bench_teacher(options: BenchOptions) -> int:
    from rpd.bench.teacher import BATCHES, difference, label, label_again, walk

    device, names = torch.device(resolve_device(options.device)), [name for name in (options.teacher, options.against) if name]
    walks = {n: walk(options.teacher, options.task, options.image_size, n, device) for n in BATCHES}
    largest, spec = walks[max(BATCHES)]
    table = _table(f"{options.task}: labels per second", "teacher", "batch", "min", "median", "max")
    asked, answers = [], []
    for name in names:
        began = time.perf_counter()
        asked.append(teachers.make(name, spec, device))
        print(f"{name}: loaded in {time.perf_counter() - began:.2f} s")
        for n, (walked, _) in walks.items():
            label(asked[-1], walked)  # warms up
            rates = [walked.count / label(asked[-1], walked)[0] for _ in range(options.rounds)]
            table.add_row(name, str(n), *(f"{r:,.0f}" for r in (min(rates), statistics.median(rates), max(rates))))
        answers.append(label(asked[-1], largest)[1])
    Console().print(table)
    if len(names) > 1:
        gap, turned = difference(answers[0], answers[1], spec.action.discrete)
        print(f"mean distance of their actions: {gap:.4f} (of -1 to 1); gripper commands that turn: {100 * turned:.2f} %")
    epochs = train_options([options.task, "--teacher", options.teacher]).run_config().ppo.epochs
    once, again = label(asked[0], largest)[0], label_again(asked[0], largest, epochs)
    print(f"{largest.count:,} observations, each labelled once: {once:.2f} s; again in each of {epochs} epochs: {again:.2f} s")
    return 0


def _bench_serve(options: BenchOptions) -> int:
    from rpd.bench.serve import BATCHES, WAYS, round_trips

    size = options.image_size or 224
    seconds = round_trips(size, options.rounds)
    table = _table(
        f"one label of {size} x {size} x 3 images, policy free of cost", "way", "batch", "min ms", "median ms", "max ms"
    )
    for n in BATCHES:
        for way in WAYS:
            values = [1000 * s for s in seconds[way, n]]
            table.add_row(way, str(n), *(f"{v:.3f}" for v in (min(values), statistics.median(values), max(values))))
    Console().print(table)
    return 0


def _bench_export(options: BenchOptions) -> int:
    from rpd.bench.export import Case, fresh, latencies

    table = _table("one action on one core", "policy", "way", "mean ms", "median ms", "99 % ms")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = {str(options.policy): Case(resolve_policy(options.policy))} if options.policy else None
        for i, (label, case) in enumerate((given or fresh(options.task, options.image_size or 64, folder)).items()):
            for way, seconds in latencies(case, folder / f"exported-{i}", options.rounds).items():
                numbers = (seconds.mean(), *np.percentile(seconds, (50, 99)))
                table.add_row(label, way, *(f"{1000 * s:.3f}" for s in numbers))
    Console().print(table)
    return 0


def _bench_deploy(options: BenchOptions) -> int:
    from rpd.bench.deploy import COLUMNS, cells, measure

    if options.policy is None:
        raise ConfigError("which policy? e.g. 'rpd bench deploy runs/x'")
    table = _table(f"{options.policy} on robot sim, in real time; ms", *COLUMNS)
    for row in measure(str(options.policy), "sim", options.episodes or 100):
        print(*cells(row), sep=" | ", flush=True)
        table.add_row(*cells(row))
    Console().print(table)
    return 0


def _bench_diffusion(options: BenchOptions) -> int:
    from rpd.bench.diffusion import measure, rows, write

    if options.policy is None:
        raise ConfigError("which policy? e.g. 'rpd bench diffusion runs/x'")
    report = measure(
        str(options.policy), options.task or None, options.samplers, options.execute, options.episodes or 200, options.seed,
        resolve_device(options.device),
    )  # fmt: skip
    title = (
        f"{report.task}: {options.policy}, {report.methods[0].result.n} episodes, differences to {report.methods[0].sampler}"
    )
    columns, cells = rows(report)
    table = _table(title, *columns)
    for row in cells:
        table.add_row(*row)
    Console().print(table)
    folder = options.out or Path("runs") / f"bench-diffusion-{time.strftime('%Y%m%d-%H%M%S')}"
    print(f"report: {write(report, folder)}")
    return 0


def _bench_octo(options: BenchOptions) -> int:
    from rpd.bench.octo import measure

    device, model = resolve_device(options.device), options.checkpoint or f"octo of size {options.size}, random weights"
    rows = measure(options.size, options.checkpoint, options.samples, str(device), options.num_threads or 1)
    title = f"{model}: W = 1, one camera, {options.samples} samples per label, {device}"
    table = _table(title, "what", "s", "CPU s", "labels/s", "samples/s", "peak MB")
    for row in rows:
        rates = [f"{row.labels / row.seconds * n:,.2f}" if row.labels else "" for n in (1, options.samples)]
        table.add_row(row.what, f"{row.seconds:.2f}", f"{row.cpu_seconds:.2f}", *rates, f"{row.peak_mb:,.0f}")
    Console().print(table)
    return 0


def _stepper(env: VectorEnv, count: int) -> Callable[[], int]:
    """Take `count` random control steps; returns how many that is over all environments."""
    generator = torch.Generator(env.device).manual_seed(0)
    action = torch.zeros(env.num_envs, env.spec.action.dim, device=env.device)

    def steps() -> int:
        for _ in range(count):
            env.step(action.uniform_(-1, 1, generator=generator))
        return count * env.num_envs

    return steps


def _rates(work: Callable[[], int], rounds: int, device: torch.device) -> list[float]:
    """Units of work per second, per round, after one round of warming up."""
    now = clock(device)
    work()
    rates = []
    for _ in range(rounds):
        began = now()
        count = work()
        rates.append(count / (now() - began))
    return rates


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    return table
