"""Trajectory files of ManiSkill's own RecordEpisode, as its motion planning and replay write them, read and learnt from."""

import json
import os

import pytest
import torch

from rpd.cli.main import main
from rpd.datasets.reader import open_demos
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.rendering.vulkan import render_settings

pytest.importorskip("mani_skill", reason="mani_skill is not installed")
pytest.importorskip("h5py")
pytestmark = pytest.mark.maniskill
STEPS, SEEDS = 4, (11, 12)


@pytest.fixture(scope="module")
def vulkan():
    try:
        _, variables = render_settings()
    except ConfigError as error:
        pytest.skip(str(error))
    before = dict(os.environ)
    os.environ.update(variables)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def record(vulkan, tmp_path_factory):
    """Record two short episodes with ManiSkill alone."""
    import gymnasium
    import mani_skill.envs  # noqa: F401  (registers its tasks)
    from mani_skill.utils.wrappers.record import RecordEpisode

    def write(obs_mode, control_mode="pd_ee_delta_pose"):
        folder = tmp_path_factory.mktemp(obs_mode)
        options = {"obs_mode": obs_mode, "control_mode": control_mode, "sim_backend": "physx_cpu", "render_backend": "cpu"}
        env = RecordEpisode(gymnasium.make("PushCube-v1", **options), str(folder), save_video=False, trajectory_name="own")
        space = env.action_space
        space.seed(0)
        for seed in SEEDS:
            env.reset(seed=seed)
            for _ in range(STEPS):
                env.step(space.sample())
        env.close()
        return folder / "own.h5"

    return write


@pytest.mark.parametrize("obs_mode", ["state", "state_dict"])
def test_states_have_the_names_of_the_environment(record, obs_mode):
    from rpd.envs.maniskill.sim import Sim

    demos = open_demos(record(obs_mode), understand=True)
    assert demos.tasks == ["maniskill/PushCube-v1"] and [e.seed for e in demos.episodes] == list(SEEDS)
    spec = demos.specs["maniskill/PushCube-v1"]
    assert spec.action.scale[:4] == (0.1, 0.1, 0.1, -0.1) and spec.embodiment.name == "panda"
    sim = Sim("PushCube-v1", EnvConfig(reward="dense"), 1, "physx_cpu", "cpu")
    assert set(demos.state_names) == set(sim.spec.state_names) and spec.state_names == demos.state_names
    columns = [demos.state_names.index(name) for name in sim.spec.state_names]
    for i, seed in enumerate(SEEDS):
        episode = demos[i]
        assert episode.obs["state"].shape == (STEPS + 1, 35) and episode.steps["label"].shape == (STEPS, 7)
        here = [sim.reset(seed)["state"], *(sim.step(torch.tensor(a)[None]).obs["state"] for a in episode.steps["action"])]
        recorded = torch.tensor(episode.obs["state"][:, columns])
        torch.testing.assert_close(recorded, torch.cat(here), atol=1e-5, rtol=0)  # the same episode, in our environment


@pytest.mark.slow
def test_student_is_cloned_from_them(record, tmp_path, monkeypatch):
    path = record("state_dict")
    monkeypatch.chdir(tmp_path)
    tiny = [
        "--total-timesteps",
        "64",
        "--env.num-envs",
        "1",
        "--bc.batch-size",
        "64",
        "--eval-episodes",
        "1",
        "--num-threads",
        "1",
    ]
    args = ["--demos", str(path), "--name", "x", "--final-eval-episodes", "1", "--env.max-episode-steps", "4"]
    assert main(["train", "maniskill/PushCube-v1", "--algorithm", "bc", *args, *tiny]) == 0
    result = json.loads((tmp_path / "runs" / "x" / "result.json").read_text())
    assert result["task"] == "maniskill/PushCube-v1" and result["steps"] == 64


def test_actions_that_are_not_normalised_are_refused_with_the_way_to_convert_them(record):
    path = record("state", "pd_joint_pos")
    assert len(open_demos(path)) == 2  # looking is allowed
    with pytest.raises(ConfigError, match=r"own.h5: actions up to \d\.\d+ are not normalized: python -m mani_skill"):
        open_demos(path, understand=True)


def test_demonstrations_of_a_users_own_task_are_those_of_its_id(record, tmp_path, monkeypatch):
    """ManiSkill's files know a task without the module that registers it."""
    from rpd.envs import user_files

    (tmp_path / "own_push.py").write_text("import mani_skill.envs  # the task itself is one of ManiSkill's")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_files, "_loaded", [])
    monkeypatch.setattr(user_files, "_recorded", {})
    monkeypatch.setenv(user_files.VARIABLE, "")
    user_files.load_module("own_push")
    task = "maniskill/own_push:PushCube-v1"
    demos = open_demos(record("state"), understand=True, task=task).select(tasks=[task])
    assert demos.specs[task].task == task and demos.state_names == demos.specs[task].state_names
    assert demos.tasks == [task]
