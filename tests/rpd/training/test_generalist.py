"""`rpd generalist`: from specialists' runs to one policy, in an ordinary run folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from rpd.cli.main import main
from rpd.config.generalist import DistillRun
from rpd.core.distributed import SOLO
from rpd.datasets import specialists as data
from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.policies.loading import load_policy
from rpd.runs import checkpoint
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import GeneralistConfig, StudentConfig
from rpd.students.embodiment_layout import RobotIO
from rpd.students.generalist import BODY, GeneralistActorCritic
from rpd.training import specialists as cells
from rpd.training.generalist import GeneralistTrainer
from rpd.training.on_policy import OnPolicyTrainer
from rpd.training.specialist_rollouts import Player, specialists_play

READS = ("gripper", "tcp_lag", "object", "goal")
FEW = {
    "episodes": 4, "num_envs": 2, "train_steps": 10, "dagger_iterations": 2, "round_episodes": 2, "round_steps": 60,
    "batch_size": 32,
    "eval_episodes": 2, "final_eval_episodes": 2, "save_freq": 1000, "num_threads": 1,
    "student": {"hidden_dims": (8, 8), "state_keys": READS},
}  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory):
    """Folders of two specialists, which know little."""
    folder, made = tmp_path_factory.mktemp("specialists"), []
    for robot in ("panda", "ur5e_slow"):
        config = small(algorithm="ppo", teacher=None, env={"robot": robot}, total_timesteps=32, save_freq=32)
        assert OnPolicyTrainer(config, folder / robot).run()
        made.append(folder / robot)
    return made


@pytest.fixture
def distil(runs, tmp_path):
    """Run it to the end in a folder, or until `stop`; returns the trainer."""

    def run(name="x", stop=None, **changes):
        config = DistillRun.model_validate({**FEW, "runs": runs, **changes})
        with cells.opened(config.runs, 2, CPU, 1) as members, cells.held_out(members, config.held_out, CPU, 1) as held:
            trainer = GeneralistTrainer(config, tmp_path / name, members, held, CPU)
            assert trainer.run()
            return trainer

    return run


def test_moments_by_hand():
    """Each entry's over the robots that have it, each robot counting the same however often it was seen."""
    bodies = [_body([True, True, False]), _body([True, False, True])]
    states = [torch.tensor([[1.0, 10.0], [3.0, 10.0]]), torch.tensor([[6.0, 4.0]] * 5)]
    mean, var = data.moments(states, bodies)
    assert mean.tolist() == [4.0, 10.0, 4.0]  # (2 + 6) / 2
    assert var.tolist() == [4.5, 0.0, 0.0]  # ((1 + 9) / 2 + 36) / 2 - 16


def test_batches_are_balanced_and_padded():
    bodies = [_body([True, True, False], [0, 1]), _body([False, True, True], [2, 0])]
    pool = data.Pool(bodies, CPU)
    rows = _rows(state=[[1.0, 2.0]] * 3, mean=[[0.1, 0.2]] * 3, success=[True, False, True])
    rows["state"][1] = 9.0
    pool.add(0, rows, torch.tensor([1.0, 0.0, 1.0]))  # the failed one is never drawn
    pool.add(1, _rows(state=[[5.0, 6.0]], mean=[[0.5, 0.6]], success=[True]), torch.ones(1))
    batch = pool.draw(SOLO.share(40), torch.Generator().manual_seed(0))
    assert batch["obs", BODY].bincount().tolist() == [40, 40]
    assert torch.equal(batch["obs", "state"][:40], torch.tensor([[1.0, 2.0, 0.0]] * 40))
    assert torch.equal(batch["obs", "state"][40:], torch.tensor([[0.0, 5.0, 6.0]] * 40))
    assert batch["mean"][40:].allclose(torch.tensor([0.6, 0.0, 0.5])) and batch["std"][40:].allclose(
        torch.tensor([0.3, 1, 0.3])
    )


def test_failures_count_less():
    pool = data.Pool([_body([True])], CPU)
    rows = _rows(state=[[0.0]] * 100 + [[1.0]] * 100, mean=[[0.0]] * 200, success=[False] * 100 + [True] * 100)
    pool.add(0, rows, torch.where(rows["success"], 1.0, 0.1))
    failed = (pool.draw(SOLO.share(20_000), torch.Generator().manual_seed(0))["obs", "state"] == 0).float().mean().item()
    assert failed == pytest.approx(0.1 / 1.1, abs=0.01)


def test_whole_episodes_with_their_outcome(runs):
    with cells.opened(runs[:1], 2, CPU, 1) as (cell,):
        columns = torch.tensor([3, 0])
        player = Player(cell, 5, 7, columns)
        assert specialists_play(player, lambda: False)
        rows, again = player.result(), Player(cell, 5, 7, columns)
        assert not specialists_play(again, lambda: len(again.rows) == 3)
        solved, episodes = player.solved
        assert episodes == 6 and len(rows) <= 60 and rows["state"].shape[1] == 2  # 2 environments, 3 times 10 steps at most
        obs = cell.env.reset(7)
        assert torch.equal(rows["state"][:2], obs["state"][:, columns])
        assert torch.equal(rows["mean"][:2], cell.teacher.label(obs, cell.env.instructions).mean)
        assert solved == 0 and not rows["success"].any()


def test_files_are_small_and_whole(tmp_path):
    rows = _rows(state=[[0.5] * 30] * 1000, mean=[[0.1] * 7] * 1000, success=[True] * 1000)
    data.write(tmp_path / "a" / "x.safetensors", rows, 3, 4, "float16", ["q"] * 30, "")
    read = data.read(tmp_path / "a" / "x.safetensors")
    assert (read.solved, read.episodes, len(read.rows)) == (3, 4, 1000)
    assert read.rows["state"].dtype == torch.float16 and read.size / 1000 < 2 * (30 + 7 + 7) + 1 + 1
    assert torch.equal(read.rows["state"].float(), rows["state"])
    rows["state"][0] = 1e5
    with pytest.raises(Exception, match="'state' has numbers beyond float16's range: use --storage float32"):
        data.write(tmp_path / "y.safetensors", rows, 3, 4, "float16", [], "")
    (tmp_path / "z").write_bytes(b"no")
    with pytest.raises(Exception, match="not a recording of specialists"):
        data.read(tmp_path / "z")


def test_whole_run(runs, distil, tmp_path, capsys):
    before = [ActorCritic.from_pretrained(run / "checkpoints/last/policy").state_dict() for run in runs]
    trainer = distil(held_out=("so101",), generalist={"network": "moe", "descriptor_keys": ("max_delta_pos", "delay")})
    for cell, frozen in zip(trainer.cells, before, strict=True):
        assert all(torch.equal(frozen[name], tensor) for name, tensor in cell.teacher.weights().items())
    run = tmp_path / "x"
    result = json.loads((run / "result.json").read_text())
    assert [row["robot"] for row in result["cells"]] == ["panda", "ur5e_slow"]
    assert all(row["generalist"]["n"] == row["specialist"]["n"] == len(row["outcomes"]) == 2 for row in result["cells"])
    assert result["held_out"][0]["robot"] == "so101" and "zero-shot: so101" in result["held_out"][0]["note"]
    assert [s["episodes"] for s in result["data"]["stages"]] == [8, 4, 4]
    assert result["data"]["bytes_per_frame"] < 130 and (run / "grid.mp4").stat().st_size > 1000
    assert sorted(p.name for p in (run / "data").iterdir())[:2] == [
        "00-Reach-panda.safetensors",
        "00-Reach-ur5e_slow.safetensors",
    ]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval/success_once" in line] == [10, 70, 130]
    for robot in ("panda", "ur5e_slow", "so101"):
        env = registry.make("tabletop/Reach", EnvConfig(num_envs=2, robot=robot))
        assert load_policy(str(run), env).act(env.reset(0), env.instructions).shape == (2, 7)
    assert main(["eval", str(run), "--robot", "so101", "--episodes", "2", "--video", "False"]) == 0
    assert "zero-shot: so101 is not among" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", [True, False])
def test_resumes_bit_for_bit(aggregate, distil, runs, tmp_path):
    distil("straight", aggregate_dataset=aggregate)
    shutil.copytree(tmp_path / "straight", stopped := tmp_path / "stopped")
    for path in [*stopped.glob("checkpoints/*"), *stopped.glob("data/02-*"), stopped / "result.json"]:
        path.unlink() if path.is_file() or path.is_symlink() else shutil.rmtree(path)
    whole = (tmp_path / "straight/checkpoints/last/policy/model.safetensors").read_bytes()
    config = DistillRun.model_validate({**FEW, "runs": runs, "aggregate_dataset": aggregate})
    with cells.opened(config.runs, 2, CPU, 1) as members:
        trainer = GeneralistTrainer(config, stopped, members, [], CPU)
        iterate, calls = trainer.iterate, []

        def interrupted():
            calls.append(trainer.step)
            if len(calls) == 3:  # 50 steps into first round
                raise KeyboardInterrupt
            return iterate()

        trainer.iterate = interrupted
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
    assert main(["generalist", "--resume", str(stopped)]) == 0
    assert (stopped / "checkpoints/last/policy/model.safetensors").read_bytes() == whole
    assert main(["generalist", "--resume", str(stopped)]) == 0  # complete


def test_complete_run_goes_on_with_more_steps_and_is_copied(distil, tmp_path, capsys):
    distil(dagger_iterations=0)
    words = ["generalist", "--resume", str(tmp_path / "x")]
    for more, message in (
        (["--seed", "3"], "seed 3 cannot change within a run, which has 0"),
        (["--name", "y"], "continues a run in its folder, with its own configuration: leave out name"),
        (["--eval-episodes", "1"], "x is complete: 10 steps, eval_episodes 2 -> 1: ask for more steps to go on"),
        (["--results", "here"], "--results here: expected an address such as s3://bucket/results"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    copied = ["--results", f"file://{tmp_path}/copies"]
    assert main([*words, "--dagger-iterations", "1", *copied]) == 0
    assert capsys.readouterr().out.endswith("/copies/x\n")
    assert json.loads((tmp_path / "copies/x/result.json").read_text())["steps"] == 10 + 60
    assert (tmp_path / "copies/x/report.html").read_bytes() == (tmp_path / "x/report.html").read_bytes()
    assert main([*words, *copied]) == 0
    assert capsys.readouterr().out.endswith("/copies/x, which is complete\n")


def test_trains_on(small, tmp_path):
    """From a reward and a teacher, on one robot; it stays a policy of all."""
    envs = [registry.make("tabletop/Reach", EnvConfig(num_envs=2, robot=robot)) for robot in ("panda", "ur5e_slow")]
    student, two = (
        StudentConfig(hidden_dims=(8,), state_keys=READS),
        GeneralistConfig(network="dual-head", descriptor_keys=("delay",)),
    )
    policy = GeneralistActorCritic([env.spec for env in envs], student, two)
    policy.save_pretrained(tmp_path / "g")
    rl = {"algorithm": "rpd", "teacher": "scripted:std=0.1", "distill": {"divergence": "fkl"}, "total_timesteps": 64}
    exploring = {"init_log_std": -2.0, "asymmetric_critic": True}
    config = small(pretrained_path=str(tmp_path / "g"), env={"robot": "ur5e_slow"}, student=exploring, **rl)
    trainer = OnPolicyTrainer(config, tmp_path / "run")
    obs = trainer.collector.obs
    policy.adapt_to(trainer.env.spec)
    assert torch.allclose(trainer.policy.act(obs), policy.act(obs), atol=1e-6)
    assert torch.allclose(trainer.policy.distribution(obs).std[:, :6].log(), torch.tensor(-2.0))
    heads = [layer.weight.clone() for layer in (trainer.policy.actor[-1], trainer.policy.rl_head)]
    assert trainer.run()
    assert all(
        not torch.equal(a, b.weight) for a, b in zip(heads, (trainer.policy.actor[-1], trainer.policy.rl_head), strict=True)
    )
    again = OnPolicyTrainer(config, tmp_path / "run", checkpoint.load(tmp_path / "run" / "checkpoints" / "000000032"))
    assert again.run() and again.policy.blend == trainer.policy.blend
    assert all(torch.equal(a, b) for a, b in zip(again.policy.parameters(), trainer.policy.parameters(), strict=True))
    assert load_policy(str(tmp_path / "run"), envs[0]).act(envs[0].reset(0), envs[0].instructions).shape == (2, 7)


@pytest.mark.slow
def test_generalist_imitates_its_specialists(small, tmp_path):
    """Two specialists that do as the script does, on robots with other steps and delays, become one policy."""
    runs = [tmp_path / robot for robot in ("panda", "ur5e_slow")]
    for run in runs:
        few = {"total_timesteps": 32, "save_freq": 32, "env": {"robot": run.name, "max_episode_steps": None}}
        config = small(base="scripted", algorithm="ppo", teacher=None, ppo={"learning_rate": 1e-6}, **few)
        assert OnPolicyTrainer(config, run).run()
    many = {
        "episodes": 32,
        "num_envs": 32,
        "train_steps": 300,
        "dagger_iterations": 1,
        "round_episodes": 32,
        "round_steps": 300,
    }
    settings = {
        **FEW,
        **many,
        "batch_size": 256,
        "final_eval_episodes": 32,
        "learning_rate": 3e-3,
        "student": {"hidden_dims": (64, 64), "state_keys": READS},
    }
    config = DistillRun.model_validate(
        {**settings, "runs": runs, "generalist": {"descriptor_keys": ("max_delta_pos", "delay")}}
    )
    with cells.opened(runs, 32, CPU, 1) as members:
        assert GeneralistTrainer(config, tmp_path / "x", members, [], CPU).run()
    for cell in json.loads((tmp_path / "x" / "result.json").read_text())["cells"]:
        assert cell["specialist"]["rate"] > 0.9 and cell["generalist"]["rate"] > 0.8


def test_report_by_hand(tmp_path):
    """A matrix of two robots and one held out, three seeds of specialists pooled."""

    def result(k, n=100, seconds=2.0):
        return {"successes": k, "n": n, "rate": k / n, "travel_time": seconds, "weighted_travel_time": n * seconds}

    def cell(robot, k, base):
        outcomes = [[i < k, i < 90] for i in range(100)]
        return {"task": "tabletop/Reach", "robot": robot, "base": base, "specialist": result(90), "generalist": result(k),
                "outcomes": outcomes}  # fmt: skip

    stages = [{"frames": 100, "bytes": 9000, "solved": 3, "episodes": 4}]
    held = [{"task": "tabletop/Reach", "robot": "so101", "note": "", "base": result(30), "generalist": result(40)}]
    whole = {"cells": [cell("panda", 88, result(20)), cell("ur5e", 92, None)], "held_out": held}
    whole |= {"data": {"frames": 100, "bytes_per_frame": 90.0, "stages": stages}}
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "config.yaml").write_text("runs: [a]")
    (tmp_path / "g" / "result.json").write_text(json.dumps(whole))
    (tmp_path / "g" / "grid.mp4").write_bytes(b"")
    for seed, k in enumerate((90, 96)):
        (run := tmp_path / f"s{seed}").mkdir()
        (run / "config.yaml").write_text("task: tabletop/Reach\nbase: b")
        student = {
            "task": "tabletop/Reach",
            "robot": "panda",
            "student": result(k, seconds=1.0 + seed),
            "base_eval": result(22),
        }
        (run / "result.json").write_text(json.dumps(student))
    assert main(["report", *(str(tmp_path / name) for name in ("g", "s0", "s1")), "--out", str(tmp_path / "r.html")]) == 0
    numbers = json.loads((tmp_path / "r.json").read_text())
    panda = next(c for c in numbers["cells"] if c["robot"] == "panda")
    assert (panda["base"]["successes"], panda["specialist"]["successes"], panda["specialist"]["n"]) == (22, 186, 200)
    assert panda["specialist"]["travel_time"] == pytest.approx((90 * 1 + 96 * 2) / 186)
    assert panda["specialist"]["weighted_travel_time"] == pytest.approx(150)
    assert numbers["means"]["generalist"]["rate"] == pytest.approx(0.9)  # (88 + 92) / 200, without the robot held out
    assert numbers["means"]["specialist"]["rate"] == pytest.approx(276 / 300)
    assert {who: mean["rate"] for who, mean in numbers["zero_shot"].items()} == {"base": 0.3, "generalist": 0.4}
    difference = numbers["generalist_less_specialist"]["generalist"]
    assert difference["diff"] == pytest.approx(0.0) and (difference["wins"], difference["losses"]) == (2, 2)
    page = (tmp_path / "r.html").read_text()
    assert "4.1 × the base" in page and "zero-shot" in page and "186/200" in page and "weighted 150 s" in page


def _body(present, dims=(0, 1)):
    n = max(3, *dims)
    own = torch.tensor([i in dims for i in range(n)])
    columns = torch.zeros(len(present), dtype=torch.int64)
    return RobotIO(torch.zeros(0), columns, torch.tensor(present), torch.tensor(list(dims)), own, torch.ones(n))


def _rows(state, mean, success):
    tensors = {"state": torch.tensor(state), "mean": torch.tensor(mean), "success": torch.tensor(success)}
    return TensorDict({**tensors, "std": torch.full_like(tensors["mean"], 0.3)}, batch_size=[len(success)])


def test_command_line(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = [
        "--episodes",
        "2",
        "--num-envs",
        "2",
        "--train-steps",
        "20",
        "--dagger-iterations",
        "1",
        "--round-episodes",
        "2",
        "--round-steps",
        "20",
    ]
    few += ["--eval-episodes", "2", "--final-eval-episodes", "2", "--student.hidden-dims", "8", "--num-threads", "1"]
    few += ["--student.state-keys", *READS, "--embodiment", "one-hot", "--held-out", "so101", "--name", "g"]
    assert main(["generalist", *map(str, runs), *few]) == 0
    out = capsys.readouterr().out
    assert "bytes each" in out and "one-hot of zeros" in out and "report: runs/g/report.html" in out
    assert main(["generalist", *map(str, runs), *few]) == 2
    assert "runs/g exists already" in capsys.readouterr().err
    assert Path("runs/g/report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no specialists: list their runs"),
        (["{0}", "nowhere"], "unknown policy 'nowhere'"),
        (["{0}", "{0}/checkpoints/last"], "last is not a specialist's run"),
        (["{0}", "{copy}"], "two specialists of tabletop/Reach on panda"),
        (["{0}", "{1}", "--held-out", "panda"], "held out panda: the specialists include it (panda, ur5e_slow)"),
        (["{0}", "{1}", "--held-out", "pandas"], "unknown robot for tabletop/Reach 'pandas': did you mean panda"),
        (["{0}", "{1}", "--held-out", "so101"], "whose joints are read"),
        (["{0}", "{1}", "--student.state-keys", "cube"], "no robot has state entries of the group cube"),
        (["{0}", "{1}", "--batch-size", "1"], "batch_size 1 is less than one row of each of 2 specialists"),
        (
            ["{0}", "{images}"],
            "observations differ: tabletop/Reach on panda has state; tabletop/Reach on so101 has image.",
        ),
        (["{0}", "{wheels}"], "control rate differ: tabletop/Reach on panda has 20 Hz; navigate/Open on wheeled has 10 Hz"),
        (["--resume", "{0}"], "config.yaml is not of `rpd generalist`"),
    ],
)
def test_refused_before_anything_starts(words, message, runs, small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    others = {}
    for name, changes in (
        ("images", {"env": {"robot": "so101", "obs_mode": "rgb", "image_size": 16}}),
        ("wheels", {"task": "navigate/Open"}),
    ):
        if f"{{{name}}}" in words:
            config = small(algorithm="ppo", teacher=None, total_timesteps=32, save_freq=32, **changes)
            assert OnPolicyTrainer(config, tmp_path / name).run()
            others[name] = tmp_path / name
    if "{copy}" in words:
        others["copy"] = shutil.copytree(runs[0], tmp_path / "copy", symlinks=True)
    capsys.readouterr()
    assert main(["generalist", *(word.format(*runs, **others) for word in words)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not Path("runs").exists()
