"""`rpd eval`: one policy measured, or two compared on the same episodes, with videos and a report."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table

from envs import registry as envs
from envs.base import EnvConfig, VectorEnv
from envs.errors import ConfigError, unknown_name
from rpd import export, suites
from rpd.evaluate import EvalResult, compare, evaluate, save
from rpd.page import rate_text
from rpd.policies import Policy, StudentPolicy, resolve, teacher_of, trained
from rpd.report import write_evaluation
from rpd.runs import distilled, run_of
from rpd.settings import file_settings, validate
from rpd.suite_evaluation import Shard, SuiteRun
from rpd.suite_evaluation import run as run_suite
from rpd.suite_evaluation import show as show_suite
from rpd.trainer import MAX_EVAL_ENVS, resolve_device
from rpd.video import GridRecorder, side_by_side
from rpd.views import seen_by, shown_to
from students import pretrained
from students.locate import resolve_policy


class EvalOptions(BaseModel):
    """Measure a policy on fixed seeds; with two, compare them on the same episodes."""

    model_config = ConfigDict(extra="forbid")

    policy: tyro.conf.Positional[str]
    """Run, checkpoint, policy folder or exported policy; zero, random, or teacher:NAME."""
    other: tyro.conf.Positional[str | None] = None
    """A second policy, compared with the first paired by seed."""
    task: str | None = None
    """Task; default: the one that the policy was trained on. With --suite: this one alone, as the suite evaluates it."""
    sampler: str | None = None
    """How a diffusion policy draws its actions: ddpm, ddim:steps=16, rti:levels=3, ...; see docs/diffusion.md."""
    suite: str | None = None
    """Evaluate on every task of a suite in place of one: libero_spatial, libero_object, libero_goal, libero_10, libero_90,
    rpd-maniskill, tabletop. With --out of an evaluation that was interrupted, it goes on."""
    shard: str | None = None
    """With --suite: do one part of the work, e.g. 1/4. Parts that write to the same --out are merged."""
    robot: str | None = None
    """Robot; default: the policy's, else the task's."""
    obs: Literal["state", "image"] | None = None
    """What is observed; default: what each policy was trained on, else state."""
    episodes: int = Field(100, ge=1)
    """Episodes, on the seeds seed, seed + 1, ...; with --suite, of each task."""
    num_envs: int | None = Field(None, ge=1)
    """Environments stepped together; default: one per episode, at most 128, or as many as the simulator has use for."""
    seed: int = Field(3_000_000, ge=0)
    """Seed of the first episode."""
    randomize: tuple[str, ...] | None = None
    """Domain randomisation, see `rpd train --help`; default: as the policy was trained."""
    video: bool = True
    """Film the first 16 episodes; with --suite, the first 4 of each task."""
    out: Path | None = None
    """Folder for the results; default: eval/ in the run, or runs/eval-...."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads of the simulator."""


def main(options: EvalOptions) -> int:
    """Evaluate and print; returns the exit code."""
    torch.set_num_threads(1)
    if options.suite is not None:
        return _evaluate_suite(options)
    if options.shard is not None:
        raise ConfigError(f"--shard {options.shard} is a part of a suite: add --suite, e.g. --suite libero_spatial")
    names = [options.policy] + ([options.other] if options.other else [])
    task, configs = environments(options, names)
    folders = _folders(options, names)
    with contextlib.ExitStack() as stack:
        different = configs if configs[0] != configs[-1] else configs[:1]
        device, threads = resolve_device(options.device), options.num_threads
        worlds = [stack.enter_context(contextlib.closing(envs.make(task, c, device, threads))) for c in different]
        policies = [resolve(name, env, options.sampler) for name, env in zip(names, itertools.cycle(worlds), strict=False)]
        # Whatever is wrong with the options has been said before the first episode.
        for note in dict.fromkeys(p.student.note for p in policies if isinstance(p, StudentPolicy) and p.student.note):
            print(note, flush=True)
        cases = zip(itertools.cycle(worlds), itertools.cycle(different), policies, folders, strict=False)
        results = [_measure(options, *case) for case in cases]
        _show(worlds[0], results, folders)
    if len(results) == 2:
        if options.video:
            films = [folder / "grid.mp4" for folder in folders]
            side_by_side(films[0], films[1], folders[0] / "side_by_side.mp4", (names[0], names[1]))
        print(f"{names[1]} - {names[0]}: {compare(results[1], results[0])}")
    return 0


def _evaluate_suite(options: EvalOptions) -> int:
    suite, name = suites.find(options.suite or ""), options.policy
    if options.other is not None:
        raise ConfigError("--suite evaluates one policy: leave out the second")
    if options.task is not None:
        if options.task not in suite.tasks:
            raise unknown_name(f"task of {suite.name}", options.task, suite.tasks)
        suite = replace(suite, tasks=(options.task,))
    configs = {}
    for task in suite.tasks:
        _, (config,) = environments(options.model_copy(update={"task": task}), [name])
        configs[task] = config.model_copy(update=suite.env)
    shard = Shard.parse(options.shard) if options.shard else Shard()
    (folder,) = _folders(options, [name])
    what = SuiteRun(suite, name, options.episodes, options.seed, configs, options.sampler)
    print(f"results: {folder}; if interrupted, the same command with --out {folder} goes on", flush=True)
    summary = run_suite(what, folder, shard, options.device, options.num_threads, options.video)
    show_suite(summary, folder, options.episodes * len(suite.tasks))
    return 0


def _measure(options: EvalOptions, env: VectorEnv, config: EnvConfig, policy: Policy, folder: Path) -> EvalResult:
    """One policy's episodes, with everything about them written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    film = GridRecorder(folder / "grid.mp4", env.spec.control_hz, options.seed) if options.video else None
    with film or contextlib.nullcontext():
        result = evaluate(env, policy, options.episodes, options.seed, film)
    built = config.model_copy(update={"reward": env.spec.reward, "rendering": env.spec.rendering})
    save(result, folder, built.model_dump(mode="json", exclude_none=True))
    write_evaluation(folder)
    return result


def environments(options: EvalOptions, names: list[str]) -> tuple[str, list[EnvConfig]]:
    """Task and an environment per policy: what the options say, else what the first trained policy was made for.

    All have the same episodes; they differ only in what is observed, where one policy sees images and the other the state.
    """
    homes = [made_for(path) if (path := trained(name)) else None for name in names]
    known = [home for home in homes if home]
    if options.task is None and not known:
        raise ConfigError(f"{options.policy}: on which task? add --task, e.g. --task tabletop/PickCube")
    task, base = known[0] if known else ("", EnvConfig())
    chosen = {key: value for key in ("robot", "randomize") if (value := getattr(options, key)) is not None}
    together = options.num_envs or envs.task_info(options.task or task).together or MAX_EVAL_ENVS
    base = base.model_copy(update={**chosen, "num_envs": min(options.episodes, together)})
    configs = []
    for name, home in zip(names, homes, strict=True):
        seen = home[1] if home else base
        observed = {key: getattr(seen, key) for key in ("obs", "cameras", "image_size", "frames")}
        config = base.model_copy(update=observed | ({"obs": options.obs} if options.obs else {}))
        own = config.model_copy(update={"teacher_cameras": (), "teacher_image_size": None})
        configs.append(shown_to(own, _watcher(name)))
    return options.task or task, configs


def _watcher(name: str) -> str | None:
    """The teacher that looks through cameras of its own when a policy acts, if there may be one."""
    if (path := trained(name)) is not None:
        if export.is_exported(path):
            return None
        base = pretrained.describe(resolve_policy(path)).base
        return base if isinstance(base, str) else None
    return teacher_of(name)


def made_for(path: Path) -> tuple[str, EnvConfig]:
    """Task and environment that a trained policy was made for: its run's, or what its spec says of them."""
    spec = export.spec_of(path) if export.is_exported(path) else pretrained.describe(resolve_policy(path)).spec
    run = run_of(path)
    if run is not None and not distilled(run):
        config = validate(file_settings(run / "config.yaml"), str(run / "config.yaml"))
        if export.is_exported(path):  # perhaps for another robot; it remembers frames by itself
            return spec.task, config.env.model_copy(update={"robot": spec.embodiment.name, "frames": 1})
        return config.task, config.env
    return spec.task, seen_by(EnvConfig(robot=spec.embodiment.name, reward=spec.reward), spec)


def _folders(options: EvalOptions, names: list[str]) -> list[Path]:
    """Where each policy's results go: ``eval/<when>`` in its run, ``runs/eval-<when>-<name>`` without one."""
    when = time.strftime("%Y%m%d-%H%M%S")
    labels = [re.sub(r"[^\w.=-]+", "-", name).strip("-") for name in names]
    if options.out is not None:
        if options.out.exists() and not options.out.is_dir():
            raise ConfigError(f"--out {options.out}: is a file, and results need a folder")
        return [options.out / f"{i}-{label}" for i, label in enumerate(labels, 1)] if options.other else [options.out]
    runs = [run_of(path) if (path := trained(name)) else None for name in names]
    folders = [
        run / "eval" / when if run else Path("runs") / f"eval-{when}-{label}" for run, label in zip(runs, labels, strict=True)
    ]
    if len(set(folders)) < len(folders):  # two checkpoints of one run
        folders[1] = folders[1].with_name(f"{folders[1].name}-2")
    return folders


def _show(env: VectorEnv, results: list[EvalResult], folders: list[Path]) -> None:
    table = Table(title=f"{env.spec.task} · {env.spec.embodiment.name}", title_justify="left", header_style="bold")
    table.add_column("policy", overflow="fold")
    more = ("travel time", "weighted") if env.spec.course else ("at end",)  # success ends a course
    for column in ("success (95 %)", "return", "length", *more):
        table.add_column(column, no_wrap=True)
    for r in results:
        at_end = [str(sum(e.success_at_end for e in r.episodes))]
        times = ["–" if t is None else f"{t:.1f} s" for t in (r.travel_time, r.weighted_travel_time)]
        numbers = (f"{r.mean_return:.2f}", f"{r.mean_length:.1f}", *(times if env.spec.course else at_end))
        table.add_row(r.policy, rate_text(r.to_dict()), *numbers)
    console = Console()
    console.print(table)
    for folder in folders:
        console.print(f"results: {folder}", highlight=False, soft_wrap=True)
