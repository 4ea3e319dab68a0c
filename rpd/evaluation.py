"""`rpd eval`: one policy measured, or two compared on the same episodes, with videos and a report."""

from __future__ import annotations

import re
import time
from pathlib import Path

import torch
import tyro
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table

from envs import registry as envs
from envs.base import EnvConfig, VectorEnv
from envs.errors import ConfigError
from envs.specs import EnvSpec
from rpd.evaluate import EvalResult, compare, evaluate, save
from rpd.page import rate_text
from rpd.policies import resolve
from rpd.report import write_evaluation
from rpd.trainer import MAX_EVAL_ENVS, resolve_device
from rpd.video import GridRecorder, side_by_side
from students import pretrained
from students.actor_critic import ActorCritic
from students.locate import resolve_policy


class EvalOptions(BaseModel):
    """Measure a policy on fixed seeds; with two, compare them on the same episodes."""

    model_config = ConfigDict(extra="forbid")

    policy: tyro.conf.Positional[str]
    """Run, checkpoint or policy folder; zero, random, or teacher:NAME."""
    other: tyro.conf.Positional[str | None] = None
    """A second policy, compared with the first paired by seed."""
    task: str | None = None
    """Task; default: the one that the policy was trained on."""
    robot: str | None = None
    """Robot; default: the policy's, else the task's."""
    obs: str | None = None
    """state or image, for policies that do not say it themselves (zero, random, teachers)."""
    episodes: int = Field(100, ge=1)
    """Episodes, on the seeds seed, seed + 1, ..."""
    seed: int = Field(3_000_000, ge=0)
    """Seed of the first episode."""
    randomize: tuple[str, ...] = ()
    """Domain randomisation, see `rpd train --help`."""
    video: bool = True
    """Film the first 16 episodes."""
    out: Path | None = None
    """Folder for the results; default: eval/ in the run, or runs/eval-...."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads of the simulator."""


def main(options: EvalOptions) -> int:
    """Evaluate and print; returns the exit code."""
    torch.set_num_threads(1)
    device = resolve_device(options.device)
    names = [options.policy] + ([options.other] if options.other else [])
    task, config = _environment(options, names)
    env = envs.make(task, config, device, options.num_threads)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    policies = [resolve(name, env) for name in names]  # every mistake comes before the first episode
    folders = [_folder(options, name, i, stamp) for i, name in enumerate(names)]
    results = []
    for policy, folder in zip(policies, folders, strict=True):
        if options.video:
            with GridRecorder(folder / "grid.mp4", env.spec.control_hz, options.seed) as film:
                result = evaluate(env, policy, options.episodes, options.seed, film)
        else:
            result = evaluate(env, policy, options.episodes, options.seed)
        save(result, folder)
        write_evaluation(folder)
        results.append(result)
    env.close()
    _show(env, results, folders)
    if len(results) == 2:
        if options.video:
            side_by_side(
                folders[0] / "grid.mp4", folders[1] / "grid.mp4", folders[0] / "side_by_side.mp4", (names[0], names[1])
            )
        print(f"{names[0]} - {names[1]}: {compare(*results)}")
    return 0


def _environment(options: EvalOptions, names: list[str]) -> tuple[str, EnvConfig]:
    """Task and environment: what the options say, else what the first trained policy was made for."""
    specs = [s for s in map(_spec, names) if s is not None]
    if not specs and options.task is None:
        raise ConfigError(f"rpd eval {options.policy}: which task? add --task, e.g. --task tabletop/PickCube")
    config = EnvConfig(num_envs=min(options.episodes, MAX_EVAL_ENVS), randomize=options.randomize)
    update: dict[str, object] = {"robot": options.robot}
    if specs:
        spec = specs[0]
        images = [k.removeprefix("image.") for k in spec.observations if k.startswith("image.")]
        update = {"robot": options.robot or spec.embodiment.name, "reward": spec.reward}
        if images:
            size = spec.observations[f"image.{images[0]}"].shape[0]
            update |= {"obs": "image", "cameras": tuple(images), "image_size": size}
        if options.obs is not None and options.obs != ("image" if images else "state"):
            raise ConfigError(f"--obs {options.obs}: the policy {names[0]} was trained on {'image' if images else 'state'}")
    elif options.obs is not None:
        update["obs"] = options.obs
    fields = config.model_dump() | update
    try:
        config = EnvConfig.model_validate(fields)
    except ValueError:
        raise ConfigError(f"--obs {options.obs}: use state or image") from None
    return options.task or specs[0].task, config


def _spec(name: str) -> EnvSpec | None:
    """The spec that a trained policy was made for; None for what is not a path."""
    if not Path(name).exists():
        return None
    return pretrained.load(ActorCritic.__name__, resolve_policy(Path(name)))[0]


def _folder(options: EvalOptions, name: str, index: int, stamp: str) -> Path:
    label = re.sub(r"[^\w.=-]+", "-", name).strip("-")
    if options.out is not None:
        return options.out if options.other is None else options.out / f"{index + 1}-{label}"
    run = Path(name)
    if (run / "config.yaml").exists():
        return run / "eval" / stamp
    return Path("runs") / f"eval-{stamp}-{label}"


def _show(env: VectorEnv, results: list[EvalResult], folders: list[Path]) -> None:
    table = Table(title=f"{env.spec.task} · {env.spec.embodiment.name}", title_justify="left", header_style="bold")
    table.add_column("policy", overflow="fold")
    for column in ("success (95 %)", "at end", "return", "length"):
        table.add_column(column, no_wrap=True)
    for r in results:
        at_end = sum(e.success_at_end for e in r.episodes)
        table.add_row(r.policy, rate_text(r.to_dict()), str(at_end), f"{r.mean_return:.2f}", f"{r.mean_length:.1f}")
    console = Console()
    console.print(table)
    for folder in folders:
        console.print(f"results: {folder}", highlight=False, soft_wrap=True)
