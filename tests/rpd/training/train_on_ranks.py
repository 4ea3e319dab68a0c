"""Program of test_ranks.py: train with every algorithm on the ranks of this process's environment.

Usage: train_on_ranks.py OUT NAME=CONFIG.json ...  Writes OUT/NAME, and the weights of each rank to OUT/NAME-rank<k>.pt.
"""

import json
import sys
from pathlib import Path

import torch

from rpd.config.generalist import DistillRun
from rpd.config.schema import RunConfig
from rpd.core.distributed import World
from rpd.core.joining import joined
from rpd.training import specialists
from rpd.training.behavior_cloning import BehaviorCloningTrainer
from rpd.training.generalist import GeneralistTrainer
from rpd.training.on_policy import OnPolicyTrainer


def train(config: dict, run_dir: Path, world: World) -> dict[str, torch.Tensor]:
    """Train one run; returns the weights of this rank."""
    if "runs" in config:
        chosen, cpu = DistillRun.model_validate(config), torch.device("cpu")
        with specialists.opened(chosen.runs, chosen.num_envs, cpu, 1) as members:
            trainer = GeneralistTrainer(chosen, run_dir, members, [], cpu, None, world)
            assert trainer.run()
            return trainer.policy.state_dict()
    chosen = RunConfig.model_validate(config)
    trainer = (BehaviorCloningTrainer if chosen.algorithm == "bc" else OnPolicyTrainer)(chosen, run_dir, None, world)
    assert trainer.run()
    return trainer.policy.state_dict()


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    with joined("cpu") as world:
        for word in sys.argv[2:]:
            name, _, path = word.partition("=")
            weights = train(json.loads(Path(path).read_text()), out / name, world)
            torch.save(weights, out / f"{name}-rank{world.rank}.pt")
