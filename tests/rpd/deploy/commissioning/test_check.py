"""`rpd robot check` from end to end on the simulated robot, and what it refuses."""

import io
import sys
from pathlib import Path

import imageio.v3 as iio
import pytest
import yaml

from rpd.cli.main import main
from rpd.deploy import config as configs
from rpd.deploy import slow_motion
from rpd.deploy.commissioning import connection, gripper, pictures
from rpd.deploy.commissioning.check import STEPS
from rpd.deploy.commissioning.progress import Progress
from rpd.envs.config import EnvConfig
from rpd.envs.registry import make
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import StudentConfig

JOINTS, CAMERAS = 7, 1
ANSWERS = ["yes", *["yes", "yes"] * JOINTS, "yes", "yes", "keep", *["yes"] * CAMERAS, *["skip"] * CAMERAS]


@pytest.fixture
def fast(monkeypatch):
    for module, name, value in (
        (slow_motion, "SPEED", 0.5),
        (slow_motion, "SETTLE", 0.2),
        (gripper, "STROKE", 1.0),
        (connection, "WATCHED", 0.5),
        (pictures, "WATCHED", 0.5),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def typed(monkeypatch):
    """`typed(answers)` pipes lines into the command."""
    return lambda answers: monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in answers)))


@pytest.fixture
def robot(patient_robot, tmp_path, monkeypatch):
    """Name of a robot file in the working folder: robot ``sim`` with one camera."""
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(Path(patient_robot).read_text())
    content["cameras"] = {"front": {"driver": "sim"}}
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(content))
    return "bench.yaml"


def test_simulated_robot_from_its_connection_to_a_dry_run(robot, fast, typed, tmp_path, capsys):
    env = make("tabletop/Reach", EnvConfig(num_envs=1, max_episode_steps=10, obs_mode="rgb"))
    small = {"hidden_dims": (8,), "image_feature_dim": 8, "image_channels": (8, 8)}
    ActorCritic(env.spec, StudentConfig(**small)).save_pretrained(tmp_path / "policy")
    words = ["robot", "check", robot, "--policy", "policy"]

    typed(ANSWERS[:5])
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "[done] rates: " in out and "step joints: the input has ended; the same command goes on from here" in err

    typed(ANSWERS[1:])
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "[done] 1 of 9, connection" in out and "Is the tool about there" not in out
    assert "7 joints move as the robot file describes" in out and "closes in" in out
    assert "time is up" in out and "0 of" not in out
    picture = iio.imread(tmp_path / "runs" / "check-bench" / "front.png")
    assert picture.shape == (320, 960, 3)
    # both pictures are of the same simulation and seed, but of another moment
    assert (abs(picture[:, :320].astype(int) - picture[:, 320:640]) > 20).mean() < 0.1
    written = configs.load("bench-checked.yaml")
    assert written == configs.load(robot)

    typed([])
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.count("[done]") == len(STEPS) == 9


def test_repeated_step_repeats_those_that_follow_from_it(robot, typed, tmp_path, capsys):
    config = configs.load(robot)
    progress = Progress.load(tmp_path / "runs" / "check-bench", robot, config)
    for step in STEPS:
        progress.finish(step.name, "fine", config)
    (tmp_path / "bench-checked.yaml").write_text("mine")
    typed(["keep", "keep"])
    assert main(["robot", "check", robot, "--again", "workspace"]) == 1
    out, err = capsys.readouterr()
    assert out.count("[done]") == 7 and "[5 of 9, workspace" in out
    assert "bench-checked.yaml is kept: name another --out" in err and (tmp_path / "bench-checked.yaml").read_text() == "mine"
    progress = Progress.load(tmp_path / "runs" / "check-bench", robot, config)
    assert progress.done["workspace"]["summary"].startswith("kept") and progress.done["rates"]["summary"] == "fine"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["check", "ur5e"], "robot ur5e is about to move: that is confirmed at a terminal"),
        (["check", "sim", "--again", "joint"], "unknown step 'joint': did you mean joints"),
        (["check", "sym"], "did you mean sim"),
        (["check", "ur5e", "--driver", "none.py:Mine"], "there is no file"),
        (["chek", "sim"], "did you mean check"),
        ([], "which part? usage: rpd robot check ROBOT"),
        (["contract", "sim"], "missing --robot"),
    ],
)
def test_bad_input_is_one_line(words, says, typed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed(["yes"] * 50)
    assert main(["robot", *words]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
