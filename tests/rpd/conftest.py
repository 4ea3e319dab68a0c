import pytest
import torch

from rpd.cli.main import main
from rpd.config.schema import RunConfig

SMALL = {
    "task": "tabletop/Reach",
    "teacher": "scripted:noise=0.5",
    "env": {"num_envs": 4, "max_episode_steps": 10},
    "student": {"hidden_dims": (16,)},
    "ppo": {"num_steps": 8, "update_epochs": 2, "num_minibatches": 2},
    "distill": {"decay_steps": 96},
    "total_timesteps": 192,
    "num_threads": 1,
    "eval_freq": 64,
    "eval_episodes": 3,
    "final_eval_episodes": 3,
    "save_freq": 32,
    "max_checkpoints": 2,
}


@pytest.fixture(scope="session")
def small():
    """Build a run of 6 iterations of 32 steps, evaluated every 2 and saved every one; keywords replace what they name."""

    def build(**changes):
        merged = {k: {**v, **changes.pop(k, {})} if isinstance(v, dict) else v for k, v in SMALL.items()}
        return RunConfig.model_validate(merged | changes)

    return build


@pytest.fixture
def arguments():
    """The command line of such a run; keywords replace or add options, None leaves one out."""

    def build(task="tabletop/Reach", **options):
        flat = {
            "env.num-envs": 4,
            "env.max-episode-steps": 10,
            "student.hidden-dims": 16,
            "ppo.num-steps": 8,
            "total-timesteps": 96,
        }
        flat |= {"num-threads": 1, "eval-freq": 96, "eval-episodes": 2, "final-eval-episodes": 2, "save-freq": 32}
        if options.get("algorithm") == "bc":
            del flat["ppo.num-steps"]
        flat |= {"teacher": "scripted:noise=0.5"} | {k.replace("__", ".").replace("_", "-"): v for k, v in options.items()}
        return ["train", task] + [str(x) for k, v in flat.items() if v is not None for x in (f"--{k}", v)]

    return build


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


COLLECT = {
    "policy": "scripted",
    "episodes": 6,
    "per-file": 4,
    "noise": 0.3,
    "env.num-envs": 2,
    "env.image-size": 16,
    "env.limits": "none",
}


@pytest.fixture(scope="session")
def collect():
    """Record demonstrations of two tasks, in files of 4; keywords replace or add options, None leaves one out."""

    def run(out, *tasks, **options):
        flat = (
            COLLECT | {"out": out, "num-threads": 1} | {k.replace("__", ".").replace("_", "-"): v for k, v in options.items()}
        )
        words = [str(x) for k, v in flat.items() if v is not None for x in (f"--{k}", v)]
        return main(["data", "collect", *(tasks or ("tabletop/Reach", "tabletop/PushCube")), *words])

    return run


@pytest.fixture(scope="session")
def recorded(collect, tmp_path_factory):
    """A folder of such demonstrations."""
    pytest.importorskip("h5py")
    folder = tmp_path_factory.mktemp("demos") / "x"
    assert collect(folder) == 0
    return folder
