"""`rpd bench`: measure, print a table, and keep it."""

from __future__ import annotations

import shlex
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

from envs import registry as envs
from envs.base import EnvConfig, VectorEnv
from envs.errors import ConfigError
from rpd.bench.clock import clock, cpu_seconds
from rpd.bench.result import Benchmark, Column, spread, spread_columns
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
    """Folder for bench.json, and diffusion's figure and report; default: runs/bench-...."""
    rounds: int = Field(5, ge=1)
    """Repetitions; the minimum, median and maximum are printed."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads."""


def main(options: BenchOptions) -> int:
    """Measure, print, and write; returns the exit code."""
    torch.set_num_threads(options.num_threads or 1)
    info = environment_info()
    machine = info["machine"]
    print(f"{machine['cpu']}, {machine['cores']} cores, gpus: {', '.join(machine['gpus']) or 'none'}")
    command = _command(options)
    if options.what != "diffusion":
        options = options.model_copy(update={"task": options.task or TASK})
    if options.policy is not None and options.what not in ("export", "deploy", "diffusion"):
        raise ConfigError(f"rpd bench {options.what} measures no policy: leave out '{options.policy}'")
    benches: dict[str, Callable[[BenchOptions], Benchmark]] = {
        "env": _env, "train": _train, "teacher": _teacher, "octo": _octo, "serve": _serve, "export": _export,
        "deploy": _deploy, "diffusion": _diffusion,
    }  # fmt: skip
    found = benches[options.what](options)
    console = Console()
    console.print(found.table())
    for note in found.notes:
        print(note)
    folder = options.out or Path("runs") / f"bench-{options.what}-{time.strftime('%Y%m%d-%H%M%S')}"
    console.print(f"results: {found.write(folder, command, info)}", highlight=False, soft_wrap=True)
    return 0


def _command(options: BenchOptions) -> str:
    """What a person types for these options."""
    words = ["rpd", "bench", options.what, *([] if options.policy is None else [str(options.policy)])]
    for name, value in options.model_dump(mode="json", exclude_defaults=True, exclude={"what", "policy"}).items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def _env(options: BenchOptions) -> Benchmark:
    if options.task.startswith("libero/"):
        return _libero(options)
    columns = (Column("what"), *spread_columns("", ",.0f"), Column("per CPU second", ",.0f"))
    found = Benchmark(f"{options.task}, {options.num_envs} environments", columns)
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
        spent = None if began is None or ended is None else count * (options.rounds + 1) / (ended - began)
        found.rows.append((label, *spread(rates), spent))
        env.close()
        if env.spec.course:  # navigation has no images
            break
    return found


def _libero(options: BenchOptions) -> Benchmark:
    from rpd.bench.libero import measure

    rows = measure(options.task, options.image_size or 128, options.rounds)
    columns = (Column("what"), Column("workers"), *spread_columns("", ",.1f"), Column("MB per worker", ",.0f"))
    ratio = statistics.median(f / s for s, f in zip(rows[0].rates, rows[1].rates, strict=True))
    return Benchmark(
        f"{options.task}: control steps/s", columns,
        [(r.what, r.workers, *spread(r.rates), statistics.mean(r.private_mb) if r.private_mb else None) for r in rows],
        [f"fast is {ratio:.2f} times as fast as the original (median of {options.rounds} rounds by turns)"],
    )  # fmt: skip


def _train(options: BenchOptions) -> Benchmark:
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
    columns = (Column("part"), *spread_columns(" ms", ".0f"), Column("share", ".0%"))
    found = Benchmark(f"one iteration: {steps:,} steps, {config.ppo.epochs} epochs", columns)
    median = statistics.median(row["iteration"] for row in rows)
    for part in (*(p for p in PARTS if any(row[p] for row in rows)), "iteration"):
        seconds = spread([row[part] for row in rows])
        found.rows.append((part, *(1000 * s for s in seconds), seconds[1] / median))
    found.notes.append(f"training loop: {steps / median:,.0f} steps/s (median of {options.rounds})")
    return found


def _teacher(options: BenchOptions) -> Benchmark:
    from rpd.bench.teacher import BATCHES, difference, label, label_again, walk

    device, names = torch.device(resolve_device(options.device)), [name for name in (options.teacher, options.against) if name]
    walks = {n: walk(options.teacher, options.task, options.image_size, n, device) for n in BATCHES}
    largest, spec = walks[max(BATCHES)]
    columns = (Column("teacher"), Column("batch"), *spread_columns("", ",.0f"))
    found = Benchmark(f"{options.task}: labels per second", columns)
    asked, answers = [], []
    for name in names:
        began = time.perf_counter()
        asked.append(teachers.make(name, spec, device))
        found.notes.append(f"{name}: loaded in {time.perf_counter() - began:.2f} s")
        for n, (walked, _) in walks.items():
            label(asked[-1], walked)  # warms up
            rates = [walked.count / label(asked[-1], walked)[0] for _ in range(options.rounds)]
            found.rows.append((name, n, *spread(rates)))
        answers.append(label(asked[-1], largest)[1])
    if len(names) > 1:
        gap, turned = difference(answers[0], answers[1], spec.action.discrete)
        turns = f"gripper commands that turn: {100 * turned:.2f} %"
        found.notes.append(f"mean distance of their actions: {gap:.4f} (of -1 to 1); {turns}")
    epochs = train_options([options.task, "--teacher", options.teacher]).run_config().ppo.epochs
    once, again = label(asked[0], largest)[0], label_again(asked[0], largest, epochs)
    each = f"each labelled once: {once:.2f} s; again in each of {epochs} epochs: {again:.2f} s"
    found.notes.append(f"{largest.count:,} observations, {each}")
    return found


def _serve(options: BenchOptions) -> Benchmark:
    from rpd.bench.serve import BATCHES, WAYS, round_trips

    size = options.image_size or 224
    seconds = round_trips(size, options.rounds)
    return Benchmark(
        f"one label of {size} x {size} x 3 images, policy free of cost",
        (Column("way"), Column("batch"), *spread_columns(" ms", ".3f")),
        [(way, n, *spread(seconds[way, n], 1000)) for n in BATCHES for way in WAYS],
    )


def _export(options: BenchOptions) -> Benchmark:
    from rpd.bench.export import Case, fresh, latencies

    ms = (Column(f"{what} ms", ".3f") for what in ("mean", "median", "99 %"))
    found = Benchmark("one action on one core", (Column("policy"), Column("way"), *ms))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = {str(options.policy): Case(resolve_policy(options.policy))} if options.policy else None
        for i, (label, case) in enumerate((given or fresh(options.task, options.image_size or 64, folder)).items()):
            for way, seconds in latencies(case, folder / f"exported-{i}", options.rounds).items():
                numbers = (seconds.mean(), *np.percentile(seconds, (50, 99)))
                found.rows.append((label, way, *(1000 * float(s) for s in numbers)))
    return found


def _deploy(options: BenchOptions) -> Benchmark:
    from rpd.bench.deploy import COLUMNS, cells, measure

    if options.policy is None:
        raise ConfigError("which policy? e.g. 'rpd bench deploy runs/x'")
    found = Benchmark(f"{options.policy} on robot sim, in real time; ms", COLUMNS)
    for row in measure(str(options.policy), "sim", options.episodes or 100):
        found.rows.append(cells(row))
        print(*found.cells[-1], sep=" | ", flush=True)
    return found


def _diffusion(options: BenchOptions) -> Benchmark:
    from rpd.bench.diffusion import measure, tabulate

    if options.policy is None:
        raise ConfigError("which policy? e.g. 'rpd bench diffusion runs/x'")
    return tabulate(
        measure(
            str(options.policy), options.task or None, options.samplers, options.execute, options.episodes or 200, options.seed,
            resolve_device(options.device),
        )
    )  # fmt: skip


def _octo(options: BenchOptions) -> Benchmark:
    from rpd.bench.octo import measure

    device, model = resolve_device(options.device), options.checkpoint or f"octo of size {options.size}, random weights"
    seconds = (Column("s", ".2f"), Column("CPU s", ".2f"))
    rates = (Column("labels/s", ",.2f"), Column("samples/s", ",.2f"))
    found = Benchmark(
        f"{model}: W = 1, one camera, {options.samples} samples per label, {device}",
        (Column("what"), *seconds, *rates, Column("peak MB", ",.0f")),
    )
    for row in measure(options.size, options.checkpoint, options.samples, str(device), options.num_threads or 1):
        rate = row.labels / row.seconds if row.labels else None
        drawn = None if rate is None else rate * options.samples
        found.rows.append((row.what, row.seconds, row.cpu_seconds, rate, drawn, row.peak_mb))
    return found


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
