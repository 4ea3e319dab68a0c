"""`rpd bench`: measure, print a table, and keep it."""

from __future__ import annotations

import shlex
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from rpd.bench.clock import clock, load_average
from rpd.bench.result import Benchmark, Column, spread, spread_columns
from rpd.cli.options.bench import BenchOptions
from rpd.config.loader import configure
from rpd.config.schema import RunConfig
from rpd.core.device import resolve_device
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.reporting.tables import show
from rpd.runs.provenance import environment_info
from rpd.students.io.outputs import claimed, claimed_unused
from rpd.students.io.policy_path import resolve_policy
from rpd.teachers import registry as teachers
from rpd.teachers.refs import required_path
from rpd.training.on_policy import OnPolicyTrainer

TASK = "tabletop/PickCube"
PARTS = ("env", "teacher", "inference", "update", "state_estimator")


def main(options: BenchOptions) -> int:
    """Measure, print, and write; returns the exit code."""
    torch.set_num_threads(options.num_threads or 1)
    info = environment_info()
    machine = info["machine"]
    print(f"{machine['cpu']}, {machine['cores']} cores, gpus: {', '.join(machine['gpus']) or 'none'}")
    command = _command(options)
    if options.what != "diffusion":
        options = options.model_copy(update={"task": options.task or TASK})
    if options.domain_randomization and options.what != "env":
        raise ConfigError(f"--domain-randomization does not apply to rpd bench {options.what}: leave it out")
    if options.policy is not None and options.what not in ("export", "deploy", "simtosim", "diffusion"):
        raise ConfigError(f"rpd bench {options.what} measures no policy: leave out '{options.policy}'")
    benches: dict[str, Callable[[BenchOptions], Benchmark]] = {
        "env": _env, "train": _train, "teacher": _teacher, "octo": _octo, "serve": _serve,
        "replicas": _replicas, "ranks": _ranks, "export": _export, "deploy": _deploy, "simtosim": _simtosim,
        "safety": _safety, "diffusion": _diffusion,
    }  # fmt: skip
    with _claim(options) as folder:
        found = benches[options.what](options)
        console = Console()
        show(found.table(), console)
        for note in found.notes:
            print(note)
        console.print(f"results: {found.write(folder, command, info)}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _claim(options: BenchOptions) -> AbstractContextManager[Path]:
    if options.out is not None:
        return claimed(options.out, f"--out {options.out} has something in it already: choose another folder")
    return claimed_unused(Path("runs"), f"bench-{options.what}-{time.strftime('%Y%m%d-%H%M%S')}")


def _command(options: BenchOptions) -> str:
    """Command line of these options."""
    words = ["rpd", "bench", options.what, *([] if options.policy is None else [options.policy])]
    for name, value in options.model_dump(mode="json", exclude_defaults=True, exclude={"what", "policy"}).items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def _env(options: BenchOptions) -> Benchmark:
    if options.task.startswith("libero/") and not options.domain_randomization:
        return _libero(options)
    if options.task.startswith("gym/") and not options.domain_randomization:
        from rpd.bench import gymnasium

        if options.image_size is not None:
            raise ConfigError("rpd bench env measures Gymnasium environments from state: leave out --image-size")
        return gymnasium.measure(options.task, options.num_envs, options.rounds, options.num_threads)
    from rpd.bench.environment import measure

    return measure(
        options.task, EnvConfig(num_envs=options.num_envs), options.domain_randomization, options.image_size or 64,
        options.rounds, resolve_device(options.device), options.num_threads,
    )  # fmt: skip


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


def _training(options: BenchOptions, device: str, num_threads: int | None) -> RunConfig:
    """Return the configuration of a run without end."""
    size = (options.image_size or 64) if options.obs_mode == "rgb" else None
    return configure(
        options.task,
        {
            "teacher": options.teacher, "device": device, "num_threads": num_threads,
            "eval_episodes": 1, "total_timesteps": 10**9,
            "env": {"num_envs": options.num_envs, "obs_mode": options.obs_mode, "image_size": size},
        },
    )  # fmt: skip


def _train(options: BenchOptions) -> Benchmark:
    config = _training(options, options.device, options.num_threads)
    with tempfile.TemporaryDirectory() as folder:
        trainer = OnPolicyTrainer(config, Path(folder))
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
    found = Benchmark(f"one iteration: {steps:,} steps, {config.ppo.update_epochs} epochs", columns)
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
    epochs = configure(options.task, {"teacher": options.teacher}).ppo.update_epochs
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


def _replicas(options: BenchOptions) -> Benchmark:
    from rpd.bench.replicas import measure

    notes = [load_average()]
    columns = (Column("servers"), Column("batch"), *spread_columns("", ",.0f"), Column("per CPU second of the busier", ",.0f"))
    found = Benchmark(f"{options.teacher} on {options.task}: labels per second", columns, notes=notes)
    for rates in measure(options.teacher, options.task, options.image_size, options.rounds, options.num_threads or 1):
        for servers, values, per_cpu in (("1", rates.one, rates.cpu_one), ("2", rates.two, rates.cpu_two)):
            found.rows.append((servers, rates.batch, *spread(values), statistics.median(per_cpu) if per_cpu else None))
        low, median, high = spread(rates.ratios)
        times = f"{median:.2f} times as many labels per second ({low:.2f} to {high:.2f} in {options.rounds} rounds, by turns)"
        notes.append(f"batch {rates.batch}: two servers answer {times}; mean distance of their actions: {rates.gap:.2g}")
    return found


def _ranks(options: BenchOptions) -> Benchmark:
    from rpd.bench.ranks import check, measure
    from rpd.bench.ranks_report import tabulate

    if options.device not in ("auto", "cpu"):
        raise ConfigError(f"rpd bench ranks measures processes on CPU cores: leave out --device {options.device}")
    check(options.ranks)
    config, load = _training(options, "cpu", options.num_threads or 1), load_average()
    return tabulate(config, measure(config, options.ranks, options.rounds), load)


def _export(options: BenchOptions) -> Benchmark:
    from rpd.bench.export import Case, fresh, latencies

    ms = (Column(f"{what} ms", ".3f") for what in ("mean", "median", "99 %"))
    found = Benchmark("one action on one core", (Column("policy"), Column("way"), *ms))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = {options.policy: Case(resolve_policy(required_path(options.policy)))} if options.policy else None
        for i, (label, case) in enumerate((given or fresh(options.task, options.image_size or 64, folder)).items()):
            for way, seconds in latencies(case, folder / f"exported-{i}", options.rounds).items():
                numbers = (seconds.mean(), *np.percentile(seconds, (50, 99)))
                found.rows.append((label, way, *(1000 * float(s) for s in numbers)))
    return found


def _deploy(options: BenchOptions) -> Benchmark:
    from rpd.bench.deploy import COLUMNS, cells, measure

    if options.policy is None:
        raise ConfigError("which policy? e.g. 'rpd bench deploy runs/x'")
    time = "simulated" if options.stepped else "real"
    found = Benchmark(f"{options.policy} on the simulated arm, in {time} time; ms", COLUMNS)
    for row in measure(options.policy, options.episodes or 100, options.stepped, delays=options.delays):
        found.rows.append(cells(row))
        print(*found.cells[-1], sep=" | ", flush=True)
    return found


def _simtosim(options: BenchOptions) -> Benchmark:
    from rpd.bench.simtosim import COLUMNS, cells, measure

    if options.policy is None or not options.robots:
        raise ConfigError("which policy, on which robots? e.g. 'rpd bench simtosim runs/x --robots maniskill-panda'")
    found = Benchmark(f"{options.policy} in other simulators, unchanged, in simulated time", COLUMNS)
    for row in measure(options.policy, options.robots, options.episodes or 200):
        found.rows.append(cells(row))
        print(*found.cells[-1], sep=" | ", flush=True)
    return found


def _safety(options: BenchOptions) -> Benchmark:
    from rpd.bench.safety import COLUMNS, cells, measure, verdict

    found = Benchmark("use of each limit, of 1, by the worst of adversarial commands; processor time in ms", COLUMNS)
    usages = []
    for name, usage in measure(options.commands, options.seed):
        usages.append(usage)
        found.rows.append(cells(name, usage))
        print(*found.cells[-1], sep=" | ", flush=True)
    found.notes.append(verdict(usages))
    return found


def _diffusion(options: BenchOptions) -> Benchmark:
    from rpd.bench.diffusion import measure, tabulate

    if options.policy is None:
        raise ConfigError("which policy? e.g. 'rpd bench diffusion runs/x'")
    return tabulate(
        measure(
            options.policy, options.task or None, options.samplers, options.n_action_steps,
            options.episodes or 200, options.seed, resolve_device(options.device),
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
