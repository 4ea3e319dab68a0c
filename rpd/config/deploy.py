"""Configuration of `rpd deploy`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field

from rpd.envs.errors import ConfigError

STOP = "stop"
"""Value of `CascadeConfig.ask` that stops the robot instead of querying a policy."""


class CascadeConfig(BaseModel):
    """When to query a second policy (or stop) during a deployment."""

    model_config = ConfigDict(extra="forbid")

    ask: str | None = None
    """Policy reference of the policy to query where the first one is uncertain, e.g. a teacher; or stop."""
    spread: float | None = Field(None, gt=0)
    """Query where actions disagree: their standard deviation exceeds this in any dimension (range -1 to 1)."""
    ensemble: tuple[str, ...] = ()
    """Policies whose actions are compared with the policy's."""
    draws: int = Field(1, ge=1)
    """Number of actions sampled from the policy and compared; for stochastic policies."""
    value_below: float | None = None
    """Query where the policy's value estimate of the observation is lower than this."""

    def check(self) -> None:
        """Reject combinations of options that have no effect.

        Raises:
            ConfigError: names the missing option.
        """
        compared = self.draws > 1 or bool(self.ensemble)
        if self.ask is not None and self.spread is None and self.value_below is None:
            raise ConfigError(f"--cascade.ask {self.ask}: when? add --cascade.spread or --cascade.value-below")
        if self.ask is None and (compared or self.spread is not None or self.value_below is not None):
            raise ConfigError("the cascade has no policy to query: add --cascade.ask POLICY, or --cascade.ask stop")
        if (self.spread is not None) != compared:
            raise ConfigError("--cascade.spread compares answers: it goes with --cascade.ensemble or --cascade.draws")


class DeployConfig(BaseModel):
    """Run a policy on a robot, with its limits on, and record every tick."""

    model_config = ConfigDict(extra="forbid")

    policy: tyro.conf.Positional[str]
    """Policy reference: a run, a checkpoint, a policy folder or an exported folder; or a teacher, e.g. remote:ws://HOST:PORT."""
    robot: str
    """Robot that ships (see configs/robots), or a YAML file of your own."""
    driver: str | None = None
    """Driver of your own, FILE.py:Class, in place of the one in the robot's file; see `rpd robot contract`."""
    simulate: bool = False
    """Run a real robot's file with the simulated arm in place of the driver and the cameras."""
    host: str | None = None
    """Address of the robot, overrides the one in its file."""
    task: str | None = None
    """Simulated robots: task (default: the one that the policy was trained on). Required for a teacher."""
    instruction: str = ""
    """Instruction, for policies that read one; simulated robots: the task's own."""
    episodes: int = Field(1, ge=1)
    """Simulated robots: number of episodes, on the seeds seed, seed + 1, ..."""
    seed: int = Field(3_000_000, ge=0)
    """Simulated robots: seed of the first episode."""
    rate: float | None = Field(None, gt=0)
    """Commands per second, a multiple of the policy's rate; default: from the robot's file."""
    seconds: float | None = Field(None, gt=0)
    """Maximum duration, s; default: that of a training episode."""
    stepped: bool = False
    """Simulated robots: simulated time, which passes only between the ticks of the loop. As fast as the computer is, the same
    episodes on a busy one, and answers without delay."""
    dry_run: bool = False
    """Compute and record actions, but send nothing to the robot."""
    cascade: CascadeConfig = Field(default_factory=CascadeConfig)
    operator: Literal["keyboard", "gamepad", "spacemouse", "scripted"] | None = None
    """Device of a person who can take over at any time, recorded as corrections; scripted: an expert in place of the person,
    for the simulated robot. See docs/corrections.md."""
    operator_speed: float = Field(0.3, gt=0, le=1)
    """Motion at full deflection of the operator's device, as a fraction of the policy's largest action."""
    estop_file: Path = Path("ESTOP")
    """File that stops the robot as soon as it exists; any key and Ctrl-C stop it too."""
    out: Path | None = None
    """Recording to write; default: runs/deploy-<when>-<robot>.rpdlog."""
