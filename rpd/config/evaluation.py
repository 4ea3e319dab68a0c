"""Configuration of `rpd eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field


class EvalConfig(BaseModel):
    """Measure a policy on fixed seeds, or compare two policies on the same episodes."""

    model_config = ConfigDict(extra="forbid")

    policy: tyro.conf.Positional[str]
    """Policy reference: a run, a checkpoint, a policy or exported folder; a teacher, e.g. scripted:noisy; zero or random."""
    other: tyro.conf.Positional[str | None] = None
    """Second policy, compared with the first one paired by seed."""
    task: str | None = None
    """Task; default: the one that the policy was trained on. With --suite: evaluate only this task of the suite."""
    sampler: str | None = None
    """Sampler of a diffusion policy: ddpm, ddim:steps=16, rti:timesteps=3, ...; see docs/diffusion.md."""
    suite: str | None = None
    """Evaluate on every task of a suite: libero_spatial, libero_spatial_swap, rpd-maniskill, ...; see `rpd list suites`.
    With the --out of an interrupted evaluation, it is continued."""
    shard: str | None = None
    """With --suite: run one part of the evaluation, e.g. 1/4. Parts that write to the same --out are merged."""
    robot: str | None = None
    """Robot; default: the one that the policy was trained on, else the task's."""
    reward: Literal["dense", "sparse"] | None = None
    """Reward mode. This and the next twelve options: see env.* in `rpd train --help`; default: as in the policy's training."""
    max_episode_steps: int | None = Field(None, ge=1)
    """Control steps before an episode is truncated; default on another task or robot: that task's own."""
    domain_randomization: tuple[str, ...] | None = None
    """Domain randomization."""
    limits: str | None = None
    """Limits of the arm."""
    control_mode: str | None = None
    """ManiSkill: controller."""
    rendering: Literal["stock", "cheap"] | None = None
    """LIBERO: how images are rendered."""
    settled_with: Literal["3.3.0", "installed"] | None = None
    """LIBERO: MuJoCo version with which objects settled before the episode begins."""
    sim_backend: Literal["auto", "cpu", "gpu"] | None = None
    """ManiSkill: where the physics runs."""
    ignore_terminations: bool | None = None
    """ManiSkill: run every episode to its last step."""
    reconfigure: bool | None = None
    """ManiSkill: rebuild the scene for each episode."""
    make_kwargs: tuple[str, ...] | None = None
    """Gymnasium: arguments of the environment, KEY=VALUE."""
    success: str | None = None
    """Gymnasium: what solves the task."""
    instruction: str | None = None
    """Gymnasium: the language instruction."""
    obs_mode: Literal["state", "rgb"] | None = None
    """Observations; default: what each policy was trained on, else state."""
    episodes: int = Field(100, ge=1)
    """Number of episodes, on the seeds seed, seed + 1, ...; with --suite, per task."""
    num_envs: int | None = Field(None, ge=1)
    """Environments stepped in parallel; default: one per episode, at most 128 and at most as many as help the simulator."""
    seed: int = Field(3_000_000, ge=0)
    """Seed of the first episode."""
    video: bool = True
    """Record a video of the first 16 episodes; with --suite, of the first 4 of each task."""
    out: Path | None = None
    """Folder for the results; default: eval/ in the run, or runs/eval-...."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads of the simulator."""
