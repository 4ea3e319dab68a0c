"""One rank of `rpd bench ranks`: trains on request, and reports where the time goes."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from rpd.bench.ranks import REPLY
from rpd.bench.timed_world import TimedWorld
from rpd.config.schema import RunConfig
from rpd.core.joining import joined
from rpd.envs.errors import ConfigError, RunFault
from rpd.training.on_policy import OnPolicyTrainer


def main() -> None:
    """Run one rank.

    Arguments are the configuration as JSON, and the number of a core, or -1; each line of the input is a number of iterations.
    """
    config, core = RunConfig.model_validate_json(sys.argv[1]), int(sys.argv[2])
    if core >= 0:
        os.sched_setaffinity(0, {core})
    try:
        with joined("cpu") as joined_world, tempfile.TemporaryDirectory() as folder:
            _serve(config, TimedWorld(joined_world.rank, joined_world.size), Path(folder))
    except (ConfigError, RunFault, OSError) as error:
        _reply({"error": " ".join(str(error).split()), "is_config": isinstance(error, ConfigError)})
        sys.exit(1)


def _serve(config: RunConfig, world: TimedWorld, folder: Path) -> None:
    trainer = OnPolicyTrainer(config, folder, world=world)
    try:
        trainer.iterate()  # warms up
        parameters = sum(p.numel() for p in trainer.policy.policy_parameters())
        _reply({"parameters": parameters, "action_dims": trainer.env.spec.action.dim})
        for line in sys.stdin:
            records = []
            for _ in range(int(line)):
                world.begin()
                trainer.iterate()
                records.append(world.end())
            _reply(records)
    finally:
        trainer.close()


def _reply(value: Any) -> None:
    print(REPLY + json.dumps(value), flush=True)
