"""Evaluate policies by reference on the same episodes, in the environment they were trained in, and save the results."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import time
from collections.abc import Container, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rpd.config.evaluation import EvalConfig
from rpd.config.parser import option_names
from rpd.core.device import resolve_device
from rpd.core.files import write_json
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, unknown_name
from rpd.envs.rebuild import summary
from rpd.envs.specs import EnvSpec
from rpd.envs.vector_env import VectorEnv
from rpd.evaluation.environments import environments
from rpd.evaluation.evaluate import EvalResult, OnFrame, save
from rpd.evaluation.evaluate import evaluate as play
from rpd.evaluation.video import GridRecorder, side_by_side
from rpd.policies.base import Policy
from rpd.policies.builtin import StudentPolicy
from rpd.policies.identity import check_unchanged, identity
from rpd.policies.loading import load_policy
from rpd.policies.made_for import remarks
from rpd.reporting.run_report import write_evaluation
from rpd.runs.paths import run_of
from rpd.students.io.outputs import claimed, claimed_unused
from rpd.teachers.refs import parse, trained_path

LOG = logging.getLogger(__name__)
Claim = AbstractContextManager[Path | None]
"""Lock on a result folder, held until the results are written; None: results are not saved."""


@dataclass(frozen=True)
class Measurement:
    """Results of one or two policies on the same episodes.

    Attributes:
        spec: the environment of the first policy.
        results: one per policy.
        folders: folder of each saved result; None: not saved.
    """

    spec: EnvSpec
    results: tuple[EvalResult, ...]
    folders: tuple[Path | None, ...]


def evaluate(
    policy: str | Path | Policy,
    task: str | None = None,
    *,
    episodes: int = 100,
    seed: int = 3_000_000,
    env: VectorEnv | None = None,
    on_frame: OnFrame | None = None,
    out: Path | str | None = None,
    **options: Any,
) -> EvalResult:
    """Evaluate a policy on the episodes of seeds ``seed .. seed + episodes - 1``.

    Args:
        policy: policy reference, e.g. ``"runs/x"``, ``"scripted:noisy"`` or ``"zero"``, see `rpd.load_policy`; with `env`
            also an object with the methods of `rpd.policies.base.Policy`.
        task: e.g. ``"tabletop/PickCube"``; None: the task that the policy was trained on.
        episodes: number of episodes, >= 1.
        seed: seed of the first episode, and of the policy.
        env: environment to act in; None: built as the policy was trained, with `task` and `options` over that.
        on_frame: with `env`, called as ``on_frame(env, running, success)``, masks bool [N], in the first batch of episodes.
        out: new folder for eval.json, episodes.jsonl and report.html; None: nothing is saved.
        options: further options of `rpd eval`, e.g. ``robot="xarm6"``, ``num_envs=32``, ``device="cuda"``, ``video=True``
            (with `out`).

    Returns:
        Success rate with its 95 % Wilson interval, mean return (undiscounted), mean length (control steps), and every
        episode. `rpd.compare` pairs two of them by seed.

    Raises:
        ConfigError: unknown policy, task or option, or `out` exists.
        SpecMismatch: the policy does not fit the environment; names both sides.
        RunFault: NaN from the environment or the policy, or an episode does not end.
    """
    if env is not None:
        if other := [name for name, value in {"task": task, "out": out, **options}.items() if value is not None]:
            raise ConfigError(f"evaluate: {other[0]} does not apply to an environment that is built already: leave out one")
        acting = load_policy(policy, env) if isinstance(policy, (str, Path)) else policy
        return play(env, acting, episodes, seed, on_frame)
    if not isinstance(policy, (str, Path)):
        raise ConfigError(f"evaluate: in which environment does {policy.name} act? e.g. env=rpd.make_env('tabletop/PickCube')")
    if on_frame is not None:
        raise ConfigError("evaluate: on_frame needs env: build one with rpd.make_env")
    claim: Claim = contextlib.nullcontext()
    if out is not None:
        claim = claimed(Path(out), f"{out} has something in it already: choose another folder")
    values = {"video": False, **options, "policy": parse(policy).text, "task": task, "episodes": episodes, "seed": seed}
    checked = checked_options("evaluate", values, without=("suite", "shard", "other"))
    if checked.video and out is None:
        raise ConfigError("evaluate: a video needs a folder: add out")
    return measure(checked, [claim]).results[0]


def measure(options: EvalConfig, claims: Sequence[Claim]) -> Measurement:
    """Evaluate one or two policies, and save the results.

    Args:
        options: policies, environment and episodes.
        claims: lock on the folder of each policy's results.

    Raises:
        ConfigError: an option is invalid; raised before the first episode.
        SpecMismatch: a policy does not fit the environment.
        RunFault: see `rpd.evaluation.evaluate.evaluate`.
    """
    names = policies_of(options)
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(claim) for claim in claims]
        task, configs = environments(options, names)
        different = configs if configs[0] != configs[-1] else configs[:1]
        device, threads = resolve_device(options.device), options.num_threads
        worlds = [stack.enter_context(contextlib.closing(envs.make(task, c, device, threads))) for c in different]
        known = [identity(name) for name in names]
        policies = [load_policy(name, env, options.sampler) for name, env in zip(names, itertools.cycle(worlds), strict=False)]
        for name, before in zip(names, known, strict=True):
            check_unchanged(name, before)
        # All errors in the options are raised above, before the first episode.
        LOG.info(summary(worlds[0].spec))
        for note in dict.fromkeys(p.student.note for p in policies if isinstance(p, StudentPolicy) and p.student.note):
            LOG.info(note)
        notes = remarks(worlds[0].spec, *names)
        for note in notes:
            LOG.warning(note)
        cases = zip(itertools.cycle(worlds), itertools.cycle(different), policies, folders, known, strict=False)
        results = [_measure(options, *case, notes) for case in cases]
        if options.video and len(folders) == 2 and folders[0] is not None and folders[1] is not None:
            films = folders[0] / "grid.mp4", folders[1] / "grid.mp4"
            side_by_side(*films, folders[0] / "side_by_side.mp4", (names[0], names[1]))
            write_json(folders[0] / "side_by_side.json", {"left": names[0], "right": names[1]})
        return Measurement(worlds[0].spec, tuple(results), tuple(folders))


def policies_of(options: EvalConfig) -> list[str]:
    """References of the evaluated policies."""
    return [options.policy] + ([options.other] if options.other else [])


def result_folders(options: EvalConfig) -> list[AbstractContextManager[Path]]:
    """Result folder of each policy: `out`; else ``eval/<when>`` in its run, or ``runs/eval-<when>-<name>`` without one."""
    names, when = policies_of(options), time.strftime("%Y%m%d-%H%M%S")
    labels = [re.sub(r"[^\w.=-]+", "-", name).strip("-") for name in names]
    if options.out is not None:
        out = options.out
        folders = [out / f"{i}-{label}" for i, label in enumerate(labels, 1)] if options.other else [out]
        return [claimed(f, f"--out {out}: {f} has something in it already: choose another folder") for f in folders]
    runs = [run_of(path) if (path := trained_path(name)) else None for name in names]
    return [
        claimed_unused(run / "eval", when) if run else claimed_unused(Path("runs"), f"eval-{when}-{label}")
        for run, label in zip(runs, labels, strict=True)
    ]


def _measure(
    options: EvalConfig,
    env: VectorEnv,
    config: EnvConfig,
    policy: Policy,
    folder: Path | None,
    known: str | None,
    notes: list[str],
) -> EvalResult:
    """Run one policy's episodes and write all results into `folder`."""
    if folder is None:
        return play(env, policy, options.episodes, options.seed)
    film = GridRecorder(folder / "grid.mp4", env.spec.control_hz, options.seed) if options.video else None
    with film or contextlib.nullcontext():
        result = play(env, policy, options.episodes, options.seed, film)
    resolved = ("reward", "rendering", "settled_with", "control_mode", "max_episode_steps")
    built = config.model_copy(update={"robot": env.spec.embodiment.name} | {key: getattr(env.spec, key) for key in resolved})
    save(result, folder, built.model_dump(mode="json", exclude_none=True), notes, known)
    write_evaluation(folder)
    return result


def checked_options(caller: str, values: dict[str, Any], without: Container[str]) -> EvalConfig:
    """Validate options of `rpd eval` that a Python function was called with.

    Args:
        caller: the function, for messages.
        values: the options.
        without: options that the function does not take.

    Raises:
        ConfigError: an unknown option or a bad value; one line.
    """
    names = {name for name in (*option_names(EvalConfig), "policy") if name not in without}
    for name in values:
        if name not in names:
            raise unknown_name(f"option of {caller}", name, names)
    try:
        return EvalConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{caller}: {first['loc'][0]} {first['input']!r}: {first['msg']}") from None
