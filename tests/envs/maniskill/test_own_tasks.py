"""ManiSkill tasks of the user's own: imported where they are named, in workers too; without the reward asked for, refused."""

import os
import sys

import pytest

from rpd.cli.main import main
from rpd.envs import user_files
from rpd.envs.errors import ConfigError
from rpd.envs.maniskill.tasks import same
from rpd.envs.registry import task_info
from rpd.envs.rendering.vulkan import render_settings

FILE = """
from mani_skill.envs.tasks.tabletop.push_cube import PushCubeEnv
from mani_skill.utils.registration import register_env


@register_env("PushOwn-v1", max_episode_steps=5)
class PushOwn(PushCubeEnv):
    pass


@register_env("PushRaw-v1", max_episode_steps=5)
class PushRaw(PushCubeEnv):
    def compute_normalized_dense_reward(self, obs, action, info):
        raise NotImplementedError()
"""
SMALL = (
    "--algorithm ppo --env.num-envs 1 --env.num-workers 1 --ppo.num-steps 4 --ppo.num-minibatches 1 --total-timesteps 4 "
    "--eval-episodes 1 --final-eval-episodes 1 --num-threads 1"
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with the file, in a process that has not imported it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(user_files.VARIABLE, raising=False)
    monkeypatch.setattr(user_files, "_loaded", [])
    monkeypatch.setattr(user_files, "_recorded", {})
    (tmp_path / "own_tasks.py").write_text(FILE)
    yield tmp_path
    os.environ.pop(user_files.VARIABLE, None)
    sys.modules.pop("own_tasks", None)
    if "mani_skill.utils.registration" in sys.modules:
        for name in ("PushOwn-v1", "PushRaw-v1"):
            sys.modules["mani_skill.utils.registration"].REGISTERED_ENVS.pop(name, None)


@pytest.fixture
def vulkan():
    try:
        render_settings()
    except ConfigError as error:
        pytest.skip(str(error))


def test_names_of_one_task():
    assert same("maniskill/own_tasks:PushOwn-v1", "maniskill/PushOwn-v1") and same("tabletop/Reach", "tabletop/Reach")
    assert not same("maniskill/PushOwn-v1", "maniskill/PushOwn-v2") and not same("tabletop/a:Reach", "tabletop/Reach")


def test_module_is_imported_only_if_named():
    pytest.importorskip("mani_skill")
    with pytest.raises(ConfigError, match="module 'own_tasks' is imported only where you name it: add --import own_tasks"):
        task_info("maniskill/own_tasks:PushOwn-v1")
    assert "own_tasks" not in sys.modules


@pytest.mark.maniskill
@pytest.mark.parametrize("words", [["maniskill/own_tasks:PushOwn-v1"], ["maniskill/PushOwn-v1", "--import", "own_tasks.py"]])
def test_it_is_trained_and_evaluated(words, vulkan, capsys):
    pytest.importorskip("mani_skill")
    assert main(["train", *words, *SMALL.split(), "--name", "x"]) == 0, capsys.readouterr().err
    sys.modules.pop("own_tasks")
    user_files._loaded.clear()
    assert main(["eval", "runs/x", "--episodes", "1", "--num-envs", "1", "--video", "False", "--import", "own_tasks.py"]) == 0


@pytest.mark.maniskill
def test_without_a_dense_reward_it_is_refused_before_the_run(vulkan, capsys):
    pytest.importorskip("mani_skill")
    words = ["train", "maniskill/own_tasks:PushRaw-v1", *SMALL.split(), "--name", "x"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "implement compute_normalized_dense_reward, or use --env.reward sparse" in said
    assert main([*words[:-1], "y", "--env.reward", "sparse"]) == 0
