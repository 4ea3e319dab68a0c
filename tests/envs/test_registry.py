"""Tasks by name, and bad input refused in one line that names what would be right."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError

TASKS = ("Reach", "PushCube", "PullCube", "PickCube", "StackCube", "PlaceInBin", "PushT")


def refusal(task: str, **options) -> str:
    with pytest.raises(ConfigError) as error:
        registry.make(task, EnvConfig(num_envs=1, **options))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_lists_the_tasks_with_robots_cameras_and_instructions():
    tasks = {t.name: t for t in registry.list_tasks("tabletop")}
    assert tuple(tasks) == tuple(f"tabletop/{t}" for t in TASKS)
    for task in tasks.values():
        assert task.robots == ("panda", "fr3", "xarm6", "ur5e", "so101", "ur10e", "ur5e_slow")
        assert task.cameras == ("front", "side", "wrist")
        assert len({task.instruction, *task.paraphrases}) >= 3
        assert not any("{" in phrase for phrase in (task.instruction, *task.paraphrases))
    assert registry.task_info("tabletop/PickCube") == tasks["tabletop/PickCube"]


@pytest.mark.parametrize(
    ("task", "hint"),
    [
        ("tabletop/PickCub", "tabletop/PickCube"),
        ("tabletop/pickcube", "tabletop/PickCube"),
        ("tabeltop/PickCube", "tabletop/PickCube"),
        ("StackCube", "tabletop/StackCube"),
        ("tabletop", "tabletop/"),
    ],
)
def test_unknown_task_names_the_nearest(task, hint):
    message = refusal(task)
    assert message.startswith(f"unknown task '{task}'") and hint in message


@pytest.mark.parametrize(
    ("options", "start", "hint"),
    [
        ({"robot": "pandas"}, "unknown robot for tabletop/PickCube 'pandas'", "panda"),
        ({"robot": "fetch"}, "unknown robot for tabletop/PickCube 'fetch'", "so101"),
        ({"obs_mode": "rgb", "cameras": ("front", "wirst")}, "unknown camera for tabletop/PickCube 'wirst'", "wrist"),
        ({"domain_randomization": ("colour",)}, "unknown randomization 'colour'", "colors"),
    ],
)
def test_unknown_option_names_the_nearest(options, start, hint):
    message = refusal("tabletop/PickCube", **options)
    assert message.startswith(start) and hint in message


@pytest.mark.parametrize("option", [{"num_workers": 2}, {"sim_backend": "cpu"}, {"control_mode": "pd_joint_delta_pos"}])
def test_options_of_another_simulator_are_refused(option):
    message = refusal("tabletop/Reach", **option)
    assert next(iter(option)) in message and "maniskill" in message


@pytest.mark.parametrize(
    "bad", [{"num_envs": 0}, {"image_size": 4}, {"reward": "shaped"}, {"obs_mode": "pixels"}, {"robots": "panda"}]
)
def test_config_is_validated(bad):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        EnvConfig(**bad)


def test_simulator_that_is_not_installed_has_no_tasks(monkeypatch):
    def missing() -> list:
        raise ConfigError("no simulator: pip install it")

    installed = registry._module
    monkeypatch.setattr(
        registry, "_module", lambda name: SimpleNamespace(list_tasks=missing) if name != "tabletop" else installed(name)
    )
    assert len(registry.list_tasks()) == len(TASKS)
    assert [str(error) for error in registry.unlisted()] == ["no simulator: pip install it"] * (len(registry.SIMULATORS) - 1)
    with pytest.raises(ConfigError, match="pip install"):
        registry.list_tasks("maniskill")


@pytest.mark.parametrize("option", [{"cameras": ("front",)}, {"image_size": 64}])
def test_image_options_without_images_are_refused(option):
    with pytest.raises(ConfigError, match=r"does nothing with env.obs_mode state: add --env.obs-mode rgb"):
        registry.make("tabletop/Reach", EnvConfig(num_envs=1, **option))


def test_teacher_camera_options_are_checked():
    with pytest.raises(ConfigError, match=r"camera for tabletop/Reach 'frnt'.*front"):
        registry.make("tabletop/Reach", EnvConfig(num_envs=1, teacher_cameras=("frnt",)))
    with pytest.raises(ConfigError, match=r"teacher_image_size does nothing without env.teacher_cameras"):
        registry.make("tabletop/Reach", EnvConfig(num_envs=1, teacher_image_size=32))
