"""Options of `rpd tune`: those of `rpd train`, the search, and the launcher of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from rpd.cli.options.train import TrainOptions, options_of
from rpd.config.launch import LaunchConfig
from rpd.core.seeds import MAX_TUNING_SEEDS, TUNING_OFFSET, TUNING_SEED
from rpd.envs.errors import ConfigError


class TuneOptions(TrainOptions, LaunchConfig):
    """Search the settings of a method for a task, on seeds that no result uses; continues if its folder exists."""

    trials: int = Field(30, ge=1)
    """Settings to try. More with the same folder continue a search."""
    seeds_per_trial: int = Field(1, ge=1, le=MAX_TUNING_SEEDS)
    """Training seeds of each setting, one after another."""
    space: Path = Path("configs/tuning/shared.yaml")
    """Search space: a YAML file with a range or choices for each option; the same for all methods of a comparison."""
    jobs: int | None = Field(None, ge=1)
    """Parallel runs; default: one per GPU, or per core without a GPU; on a cluster, 4."""
    resume: Annotated[Path | None, tyro.conf.Suppress] = None
    results: Annotated[str | None, tyro.conf.Suppress] = None
    seed: Annotated[int, tyro.conf.Suppress] = TUNING_SEED
    eval_seed_offset: Annotated[int, tyro.conf.Suppress] = TUNING_OFFSET


def tune_options(args: list[str]) -> TuneOptions:
    """Parse the command line of `rpd tune`, on top of the task's settings.

    Raises:
        ConfigError: one line that names the error.
    """
    for name in ("resume", "results", "seed", "eval-seed-offset"):
        if any(word.split("=")[0].replace("_", "-") == f"--{name}" for word in args):
            hint = "give the same command again to continue" if name == "resume" else "rpd tune has its own"
            raise ConfigError(f"--{name} is no option of a search: {hint if name != 'results' else 'copy its folder'}")
    options = options_of(TuneOptions, args, "rpd tune")
    assert isinstance(options, TuneOptions)
    if options.eval_freq > options.total_timesteps:
        raise ConfigError(
            f"--eval-freq {options.eval_freq} is beyond --total-timesteps {options.total_timesteps}: "
            "trials are compared by their learning curves"
        )
    return options.model_copy(update={"seed": TUNING_SEED, "eval_seed_offset": TUNING_OFFSET})
