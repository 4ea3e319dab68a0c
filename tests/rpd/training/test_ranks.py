"""Training on two ranks: equal to training on one, resumable after any loss, and refused with one line if it cannot work."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rpd.core.distributed import SOLO
from rpd.runs.tracker import read_metrics
from rpd.training.on_policy import OnPolicyTrainer
from tests import ranks
from tests.rpd.training.train_on_ranks import train

pytest.importorskip("h5py")
ONE_STEP = {"num_steps": 8, "update_epochs": 1, "num_minibatches": 1}
SEVERAL = {"num_steps": 8, "update_epochs": 2, "num_minibatches": 3}
DIFFUSION = {
    "student": {"type": "diffusion", "state_keys": ["tcp_lag", "goal"]},
    "diffusion": {"horizon": 4, "width": 8, "depth": 1, "noise": "action", "num_train_timesteps": 10},
}  # fmt: skip
GENERALIST = {
    "episodes": 4, "num_envs": 2, "train_steps": 4, "dagger_iterations": 1, "round_episodes": 2, "round_steps": 4,
    "batch_size": 33, "eval_episodes": 2, "final_eval_episodes": 2, "save_freq": 4, "num_threads": 1,
    "student": {"hidden_dims": [8], "state_keys": ["gripper", "tcp_lag", "object", "goal"]},
}  # fmt: skip
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def trained(small, collect, tmp_path_factory):
    """Folders of the same runs on one rank and on two."""
    root = tmp_path_factory.mktemp("ranks")
    assert collect(root / "demos", "tabletop/Reach", episodes=8, env__obs_mode="state", env__image_size=None) == 0
    for robot in ("panda", "ur5e_slow"):
        config = small(algorithm="ppo", teacher=None, env={"robot": robot}, total_timesteps=32, save_freq=32)
        assert OnPolicyTrainer(config, root / robot).run()
    steps = {"total_timesteps": 64, "eval_freq": 64, "save_freq": 32}
    bc = {"algorithm": "bc", "teacher": None, "demos": [root / "demos"], "total_timesteps": 33 * 20, "save_freq": 33}
    bc |= {"eval_freq": 33 * 20, "bc": {"batch_size": 33, "warmup_steps": 2}}
    runs = {
        "rpd": small(teacher="scripted", ppo=SEVERAL, **steps),
        "gradients": small(teacher="scripted", ppo=ONE_STEP, **steps),
        "ratio": small(teacher="scripted", ppo=SEVERAL, distill={"schedule": "gradient-ratio", "gate": "entropy"}, **steps),
        "opd": small(teacher="scripted", ppo=SEVERAL, distill={"divergence": "opd", "normalize_gate": True}, **steps),
        "ppo": small(algorithm="ppo", teacher=None, ppo=SEVERAL | {"target_kl": 0.05}, **steps),
        "bc": small(**bc),
        "diffusion": small(**bc, **DIFFUSION),
    }
    configs = {name: config.model_dump(mode="json") for name, config in runs.items()}
    configs["generalist"] = {**GENERALIST, "runs": [str(root / robot) for robot in ("panda", "ur5e_slow")]}
    words = []
    for name, config in configs.items():
        (root / f"{name}.json").write_text(json.dumps(config))
        words.append(f"{name}={root / name}.json")
        torch.save(train(config, root / "one" / name, SOLO), root / "one" / f"{name}-rank0.pt")
    program = str(Path(__file__).with_name("train_on_ranks.py"))
    codes, outputs = ranks.run([[program, str(root / "two"), *words]] * 2, root / "two")
    assert codes == [0, 0], outputs
    return root


def close(a, b):
    return torch.allclose(a.double(), b.double(), rtol=0, atol=TOLERANCE * max(1.0, a.double().abs().max().item()))


def test_first_gradients_equal_those_of_one_rank(trained):
    states = [
        load_file(next((trained / size / "gradients" / "checkpoints").glob("*32")) / "training_state/tensors.safetensors")
        for size in ("one", "two")
    ]
    names = [name for name in states[0] if name.endswith("exp_avg")]  # 0.1 times the gradient after one step of Adam
    assert names and all(close(states[0][name], states[1][name]) for name in names)


@pytest.mark.parametrize("name", ["rpd", "ratio", "opd", "ppo", "bc", "diffusion", "generalist"])
def test_runs_equal_those_of_one_rank(name, trained):
    one, two = (read_metrics(trained / size / name) for size in ("one", "two"))
    left_out = ("time/", "eval/") if name == "diffusion" else ("time/",)  # it acts from noise, which each rank draws itself
    assert [m["step"] for m in one] == [m["step"] for m in two]
    for a, b in zip(one, two, strict=True):
        a, b = ({k: v for k, v in m.items() if not k.startswith(left_out)} for m in (a, b))
        assert b == pytest.approx(a, rel=1e-3, abs=1e-4)  # rounding errors grow from update to update
    assert len({json.dumps(json.loads((trained / s / name / "result.json").read_text()).get("teacher_queries")) for s in
                ("one", "two")}) == 1  # fmt: skip


@pytest.mark.parametrize("name", ["rpd", "ratio", "opd", "ppo", "bc", "diffusion", "generalist"])
def test_weights_are_bit_identical_on_both_ranks(name, trained):
    first, second = (torch.load(trained / "two" / f"{name}-rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_killed_rank_ends_the_other_and_the_run_resumes_bit_for_bit(arguments, tmp_path):
    words = [*arguments(env__num_envs=4, total_timesteps=32 * 12, save_freq=32), "--runs-dir", tmp_path, "--device", "cpu"]
    assert ranks.rpd([*words, "--name", "whole"], 2, tmp_path / "a")[0] == [0, 0]
    run = tmp_path / "broken"
    for killed in (1, 0):
        again = ["train", "--resume", run] if run.exists() else [*words, "--name", "broken"]
        before = newest(run)
        with ranks.started([["-m", "rpd", *map(str, again)]] * 2, tmp_path / f"kill{killed}") as processes:
            wait_for(lambda before=before: newest(run) > before, processes)
            processes[killed].kill()
            assert processes[1 - killed].wait(60) != 0  # in less than a minute
        text = (tmp_path / f"kill{killed}" / f"rank{1 - killed}.txt").read_text()
        assert ("another rank of this run has ended" in text and f"rpd train --resume {run}" in text) or killed == 0
    codes, outputs = ranks.rpd(["train", "--resume", run], 2, tmp_path / "b")
    assert codes == [0, 0], outputs
    for name in ("policy/model.safetensors", *(f"training_state/rank-0000{k}.safetensors" for k in (0, 1))):
        whole, resumed = ((folder / "checkpoints/last" / name).read_bytes() for folder in (tmp_path / "whole", run))
        assert whole == resumed, name
    assert curve(tmp_path / "whole") == curve(run)


def test_one_signal_stops_all_ranks_with_a_checkpoint_and_another_number_goes_on(arguments, tmp_path):
    words = [*arguments(total_timesteps=32 * 200, save_freq=32 * 200, eval_freq=32 * 200), "--device", "cpu"]
    words += ["--runs-dir", tmp_path, "--name", "x"]
    with ranks.started([["-m", "rpd", *map(str, words)]] * 2, tmp_path / "a") as processes:
        wait_for(lambda: len(read_metrics(tmp_path / "x")) > 1, processes)
        processes[1].send_signal(signal.SIGINT)
        assert [process.wait(ranks.TIMEOUT) for process in processes] == [130, 130]
    stopped = newest(tmp_path / "x")
    assert 0 < stopped < 32 * 200
    shutil.copytree(tmp_path / "x", tmp_path / "y", symlinks=True)
    codes, outputs = ranks.rpd(["train", "--resume", tmp_path / "y", "--total-timesteps", stopped + 32], 1, tmp_path / "b")
    assert codes == [0] and "the checkpoint is of 2 ranks, and this run has 1" in outputs[0]
    assert json.loads((tmp_path / "y/result.json").read_text())["teacher_queries"] == stopped + 32


def test_programs_that_differ_are_refused_in_one_line(arguments, tmp_path):
    words = [*map(str, arguments()), "--runs-dir", str(tmp_path), "--name", "x", "--device", "cpu"]
    commands = [["-m", "rpd", *words, "--seed", str(seed)] for seed in (0, 1)]
    codes, outputs = ranks.run(commands, tmp_path / "log")
    assert codes == [2, 2] and outputs[1] == ""
    assert outputs[0] == "rpd train (rank 0): rank 1 of 2 differs from rank 0: option seed is 1, not 0\n"
    assert not (tmp_path / "x").exists()


def test_environments_that_do_not_divide_are_refused_in_one_line(arguments, tmp_path):
    codes, outputs = ranks.rpd(
        [*arguments(env__num_envs=3), "--runs-dir", tmp_path, "--name", "x", "--device", "cpu"], 2, tmp_path / "log"
    )
    assert codes == [2, 2] and "env.num_envs 3 cannot be divided by 2 ranks: use a multiple" in outputs[0]
    assert not (tmp_path / "x").exists() and "cannot be divided" not in outputs[1]


def curve(run: Path) -> list[dict[str, float]]:
    """Metrics of a run without the times."""
    return [{k: v for k, v in m.items() if not k.startswith("time/")} for m in read_metrics(run)]


def newest(run: Path) -> int:
    """Step of a run's newest checkpoint; 0: none."""
    return max((int(path.name) for path in run.glob("checkpoints/[0-9]*")), default=0)


def wait_for(condition, processes):
    deadline = time.monotonic() + ranks.TIMEOUT
    while not condition():
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.02)
