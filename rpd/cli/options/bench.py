"""Options of `rpd bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field


class BenchOptions(BaseModel):
    """Measure speed: environments, parts of a training iteration, a teacher, a policy server, or samplers."""

    model_config = ConfigDict(extra="forbid")

    what: tyro.conf.Positional[
        Literal[
            "env",
            "train",
            "teacher",
            "octo",
            "serve",
            "replicas",
            "ranks",
            "export",
            "deploy",
            "simtosim",
            "safety",
            "diffusion",
        ]
    ]
    """env: control steps and images per second, of Gymnasium environments next to Gymnasium's own vectors; train: parts of a
    training iteration; teacher: labels per second; octo: loading an Octo checkpoint, and its labels per second; serve: round
    trips of image requests to a policy of zero cost;
    replicas: labels per second of a teacher behind one policy server and behind two; ranks: training on several processes,
    measured on this machine, and simulated on 8, 64 and 512 ranks;
    export: one action on one core, in torch and exported; deploy: a policy in the control loop on its simulated arm, at
    several rates and delays, compared with its evaluation; simtosim: a policy in other simulators, unchanged, compared with its
    evaluation; safety: adversarial commands through the safety layer of every robot file,
    their use of each limit, and time per command; diffusion: samplers of a diffusion policy, by success, network
    evaluations and time per action."""
    policy: tyro.conf.Positional[str | None] = None
    """diffusion, deploy, simtosim, export: a run, a checkpoint or a policy folder; default of export: new students of the
    usual sizes, from state and from images."""
    task: str = ""
    """Task; default: tabletop/PickCube; diffusion: the policy's."""
    num_envs: int = Field(128, ge=1)
    """Environments stepped in parallel; ranks: on each rank (weak scaling)."""
    ranks: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2)
    """ranks: numbers of processes to compare; each has a core of its own if there are as many."""
    domain_randomization: tuple[str, ...] = ()
    """env: measure the environment with these conditions too, by turns with none; see docs/domain-randomization.md."""
    image_size: int | None = Field(None, ge=8, le=1024)
    """Height and width of an image, pixels; default: 64, and 224 for serve."""
    obs_mode: Literal["state", "rgb"] = "state"
    """train, ranks: observations of the student."""
    teacher: str = "scripted"
    """train, teacher, replicas, ranks: the teacher."""
    against: str | None = None
    """teacher: the same teacher with other options, e.g. a token cache, for a comparison of speed and actions."""
    size: str = "octo-small-1.5"
    """octo: size of a model with random weights: octo-small-1.5, octo-base-1.5, or small, as zoo/tabletop-octo."""
    checkpoint: Path | None = None
    """octo: a folder in the original layout, in place of random weights."""
    samples: int = Field(32, ge=1)
    """octo: actions sampled per label."""
    samplers: tuple[str, ...] = ()
    """diffusion: samplers to compare with the first one, e.g. ddpm rti:timesteps=3; default: all that fit the policy, see
    docs/diffusion.md."""
    n_action_steps: int = Field(1, ge=1)
    """diffusion: executed actions per chunk, for samplers that do not set n_action_steps."""
    episodes: int | None = Field(None, ge=1)
    """diffusion: episodes, on the same seeds for all samplers (default 200); deploy: episodes of the evaluation and of each
    rate and delay (default 100); simtosim: episodes of the evaluation and of each simulator (default 200)."""
    delays: tuple[Annotated[float, Field(ge=0, le=0.2)], ...] = ()
    """deploy: only these delays of the policy's answers, s, at 20 commands per second."""
    stepped: bool = False
    """deploy: in simulated time."""
    robots: tuple[str, ...] = ()
    """simtosim: robot files of simulated robots, e.g. maniskill-panda."""
    commands: int = Field(10_000, ge=1)
    """safety: commands per robot file."""
    seed: int = Field(4_000_000, ge=0)
    """diffusion: seed of the first episode; safety: seed of the commands."""
    out: Path | None = None
    """Folder for bench.json, and diffusion's figure and report; default: runs/bench-...."""
    rounds: int = Field(5, ge=1)
    """Repetitions; the minimum, median and maximum are printed."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads."""
