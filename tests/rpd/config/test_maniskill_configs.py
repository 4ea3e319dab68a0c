"""RPD's experiments on ManiSkill, as one command each: `configs/experiments/rpd/maniskill.yaml`."""

import importlib
import json
from pathlib import Path

import pytest

from rpd.cli.main import main
from rpd.cli.options.train import train_options
from rpd.envs.registry import task_info

pytest.importorskip("mani_skill", reason="mani_skill is not installed")

RPD = {  # arXiv 2503.05833: what its teachers are told
    "PickCube-v1": "pick up the cube",
    "PushCube-v1": "push the cube away from the robot base",
    "PullCube-v1": "pull the cube towards the robot base",
    "StackCube-v1": "stack the red cube on the green cube",
    "LiftPegUpright-v1": "lift the peg upright",
    "RollBall-v1": "push the ball",
    "PokeCube-v1": "push the cube by using the blue tool",
    "PullCubeTool-v1": "pull the cube by using the red tool",
    "PegInsertionSide-v1": "insert the peg from the side",
    "PlugCharger-v1": "plug the charger in",
    "PushT-v1": "align the T shape",
}


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["openvla:hf://Juelg/openvla-7b-finetuned-maniskill", "octo:runs/octo,action_mapping=env"])
@pytest.mark.parametrize("name", RPD)
def test_one_command_per_task_and_teacher(name, teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the file ships
    args = [f"maniskill/{name}", "--config", "configs/experiments/rpd/maniskill.yaml", "--teacher", teacher]
    config = train_options(args).run_config()
    ppo = config.ppo
    assert (config.env.num_envs * ppo.num_steps, ppo.num_minibatches, ppo.update_epochs) == (6_400, 48, 8)
    assert (ppo.learning_rate, ppo.clip_coef, ppo.target_kl, ppo.ent_coef, ppo.gae_lambda) == (3e-4, 0.2, 0.2, 0.0, 0.9)
    assert ppo.finite_horizon_gae and not ppo.anneal_lr
    assert (config.distill.divergence, config.distill.weight, config.distill.schedule) == ("mse", 1.0, "constant")
    assert (config.env.obs_mode, config.env.cameras, config.env.image_size) == ("rgb", ("render_camera",), 256)
    assert config.env.reward == ("sparse" if name == "PlugCharger-v1" else "dense")
    assert ppo.gamma == (0.99 if config.env.reward == "sparse" else 0.8)
    assert train_options([*args, "--env.reward", "sparse"]).ppo.gamma == 0.99


@pytest.mark.parametrize(("name", "words"), RPD.items())
def test_task_table_matches_maniskill(name, words):
    info = task_info(f"maniskill/{name}")
    assert info.instruction == words and "render_camera" in info.cameras
    importlib.import_module("mani_skill.envs")
    task = importlib.import_module("mani_skill.utils.registration").REGISTERED_ENVS[name].cls
    assert set(task.SUPPORTED_ROBOTS) <= set(info.robots) and info.robots[0] == task.SUPPORTED_ROBOTS[0]
    robots = importlib.import_module("mani_skill.agents.registration").REGISTERED_AGENTS
    assert set(info.robots) <= set(robots)
    assert ("normalized_dense" in task.SUPPORTED_REWARD_MODES) == (info.reward == "dense")


@pytest.mark.slow
@pytest.mark.maniskill
def test_evaluated_as_rpd_does(tmp_path, monkeypatch):
    """Whole episodes, in scenes of their own; success at any step."""
    pytest.importorskip("rpd.envs.rendering.vulkan").render_settings()
    monkeypatch.chdir(tmp_path)
    args = [
        "--suite",
        "rpd-maniskill",
        "--task",
        "maniskill/PushCube-v1",
        "--episodes",
        "2",
        "--num-threads",
        "1",
        "--out",
        "x",
    ]
    assert main(["eval", "scripted", *args, "--video", "False"]) == 0
    told = json.loads(Path("x/eval.json").read_text())
    assert told["env"]["ignore_terminations"] and told["env"]["reconfigure"] and told["env"]["reward"] == "sparse"
    assert (told["task"], told["n"], told["successes"]) == ("rpd-maniskill", 2, 2)
    assert told["mean_length"] == 50 and 0 < told["travel_time"] < 50 / 20
    assert [row["instruction"] for row in told["tasks"]] == ["push the cube away from the robot base"]
