"""`rpd teacher show`, and a run whose teacher is a VLA."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from rpd.cli.main import main
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.specs import EnvSpec
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import ResidualConfig, StudentConfig
from rpd.students.residual import ResidualActorCritic

ROOT = Path(__file__).parents[3]
TINY = Path(__file__).parents[2] / "teachers" / "openvla" / "golden" / "checkpoint"
VLA = f"openvla:{TINY},unnorm_key=tiny_bridge,action_mapping=metres"


def test_show_a_vla(capsys, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["teacher", "show", VLA, "--task", "tabletop/PickCube"]) == 0
    out = capsys.readouterr().out
    for words in (
        "tiny_bridge (of 2)",
        "view.front or image.front",
        "2,210,734",
        "resize-naive to 70",
        "What action should the robot take to pick up the red cube",
    ):
        assert words in out
    assert all(word in out for word in ("-0.03, 0, 0.03 m", "-0.236, 0.000873, 0.238", "1 opens, 0 closes, from 0.5"))


def test_show_another_teacher(capsys):
    assert main(["teacher", "show", "scripted:noisy", "--task", "tabletop/Reach", "--robot", "so101"]) == 0
    out = capsys.readouterr().out
    assert "scripted:noisy in tabletop/Reach · so101" in out and "mean, std" in out


def shown(capsys, monkeypatch, *args: str, width: str = "300") -> str:
    monkeypatch.setenv("COLUMNS", width)
    assert main(["teacher", "show", *args]) == 0
    return capsys.readouterr().out


GRIPPER = "-1 closes, 0 opens, 1 opens"
STATE = "q (7), dq (7), gripper (1), tcp (9), tcp_lag (3), touch (2), object (5), goal (6)"


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """A policy folder per kind, and a stable-baselines3 model."""
    folder = tmp_path_factory.mktemp("policies")
    for name, env, student in (
        ("state", {}, {}),
        ("state_keys", {}, {"state_keys": ("gripper", "goal")}),
        ("image", {"obs_mode": "rgb", "cameras": ("front",), "image_size": 32, "frame_stack": 2}, {}),
    ):
        ActorCritic(spec_of(**env), StudentConfig(hidden_dims=(8,), **student)).save_pretrained(folder / name)
    residual = ResidualActorCritic(spec_of(), StudentConfig(hidden_dims=(8,)), ResidualConfig(), "scripted:noisy")
    residual.save_pretrained(folder / "residual")
    return folder


def spec_of(**config) -> EnvSpec:
    with contextlib.closing(envs.make("tabletop/PickCube", EnvConfig(num_envs=1, **config), "cpu", 1)) as env:
        return env.spec


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("scripted:noisy", ["privileged", "tcp_pos (3)", "25 numbers", "noise=0.37", GRIPPER]),
        (
            "{folder}/state",
            [STATE, "40 numbers, whitened with the statistics in the policy", "-0.03, 0, 0.03 m", GRIPPER],
        ),
        ("{folder}/state_keys", ["gripper (1), goal (6)", "7 numbers"]),
        ("{folder}/image", ["image.front", "rendered at 32 x 32", "uint8 [32, 32, 6]", "goal (3)"]),
        ("{folder}/residual", ["base_action", "teacher scripted:noisy", "7 numbers, its action"]),
        ("zoo/tabletop", ["In: What action should the robot take to pick up", "resize-naive to 64 pixels", GRIPPER]),
        (
            "zoo/tabletop-octo",
            ["image_primary", "resized to 64 x 64", "13 tokens of at most 16", "-0.0109, 0.000189, 0.0113 m", GRIPPER],
        ),
    ],
)
def test_each_family_shows_both_sides(name, words, policies, capsys, monkeypatch):
    out = shown(capsys, monkeypatch, name.format(folder=policies), "--task", "tabletop/PickCube")
    for word in ("model's -1, 0, +1", "its -1, 0, +1", "-0.03, 0, 0.03 m", *words):
        assert word in out, word


def test_another_robot_s_step(policies, capsys, monkeypatch):
    """A policy of a Panda moves an SO-101 by as many metres, which is more than it does in a step."""
    out = shown(capsys, monkeypatch, f"{policies}/state_keys", "--task", "tabletop/PickCube", "--robot", "so101")
    assert "-1.5, 0, 1.5" in out and "-0.02, 0, 0.02 m" in out and "1 = 0.03 m" in out


def test_navigation_has_no_gripper(capsys, monkeypatch):
    out = shown(capsys, monkeypatch, "scripted", "--task", "navigate/Open")
    assert "goal_pos (2)" in out and "-1.5, 0, 1.5 rad/s" in out and "gripper" not in out


def test_teacher_show_lists_sb3_assumptions(tmp_path, capsys, monkeypatch):
    sb3 = pytest.importorskip("stable_baselines3")
    from rpd.envs.wrappers.sb3 import SB3VecEnv

    env = SB3VecEnv(envs.make("tabletop/PickCube", EnvConfig(num_envs=2), "cpu", 1))
    sb3.PPO("MlpPolicy", env, device="cpu").save(tmp_path / "model.zip")
    env.close()
    out = shown(capsys, monkeypatch, f"sb3:{tmp_path / 'model.zip'}", "--task", "tabletop/PickCube")
    assert STATE in out and GRIPPER in out and "the file holds no names or units" in out


def test_wrong_gripper_is_shown_and_refused(tmp_path, capsys, monkeypatch):
    """The table first, to see what is wrong; then the line that a run would stop with, on every verb."""
    action_mapping = (ROOT / "teachers/zoo/tabletop/action_mapping.yaml").read_text().replace("closed: -1", "closed: 2")
    action_mapping = action_mapping.replace("{open: 1, closed: 2}", "{open: 3, closed: 1}")
    (tmp_path / "b.yaml").write_text(action_mapping)
    name = f"zoo/tabletop,action_mapping={tmp_path / 'b.yaml'}"
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["teacher", "show", name, "--task", "tabletop/PickCube"]) == 2
    out, error = capsys.readouterr()
    assert "3 opens, 1 closes, from 2" in out and "-0.9961 to 0.9961" in out
    assert "'gripper' always closes: its range is -0.9961 to 0.9961" in error and error.count("\n") == 1
    monkeypatch.chdir(tmp_path)
    for args in (["eval", name, "--task", "tabletop/PickCube"], ["train", "tabletop/PickCube", "--teacher", name],
                 ["data", "collect", "tabletop/PickCube", "--policy", name, "--out", "d"],
                 ["serve", name, "--task", "tabletop/PickCube"]):  # fmt: skip
        assert main(args) == 2
        error = capsys.readouterr().err
        assert "'gripper' always closes" in error and error.count("\n") == 1, args
    assert not (tmp_path / "d").exists() and not (tmp_path / "runs").exists()


def test_no_truncation_on_a_narrow_terminal(capsys, monkeypatch):
    out = shown(capsys, monkeypatch, "zoo/tabletop", "--task", "tabletop/PickCube", width="80")
    words = " ".join(re.sub("[^-+.,0-9A-Za-z]+", " ", out).split())
    assert "…" not in out and all(word in words for word in ("opens", "closes", "rad", "normalized", "Out"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "rpd teacher: what about a teacher? usage: rpd teacher show NAME --task TASK"),
        (["shw"], "rpd teacher: unknown verb of rpd teacher 'shw': did you mean show?"),
        (["show", "scripted"], "rpd teacher: missing"),
        (["show", "scriptd", "--task", "tabletop/Reach"], "unknown teacher 'scriptd': did you mean scripted?"),
        (["show", "scripted", "--task", "tabletop/Reech"], "unknown task 'tabletop/Reech': did you mean tabletop/Reach"),
        (["show", "openvla:/none", "--task", "tabletop/Reach"], "rpd teacher: /none: does not exist"),
        (["show", VLA + ",camera=", "--task", "tabletop/Reach"], "'camera=' is not an option; write key=value"),
    ],
)
def test_refusals(args, said, capsys):
    assert main(["teacher", *args]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    settings = (
        "--total-timesteps 8 --env.num-envs 4 --ppo.num-steps 2 --eval-episodes 1 --final-eval-episodes 1 --num-threads 1"
    )
    views = "--env.teacher-cameras front --env.teacher-image-size 70 --env.max-episode-steps 3 --name x"
    args = ["train", "tabletop/Reach", "--teacher", VLA, *settings.split(), *views.split()]
    assert main([*args, "--distill.divergence", "fkl"]) == 0
    assert "student - teacher" in capsys.readouterr().out
    assert (tmp_path / "runs" / "x" / "result.json").is_file()
