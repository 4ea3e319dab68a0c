"""A spec holds all that builds its environment again."""

import re
from pathlib import Path

import pytest

from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.rebuild import config_for, differences, recorded, summary
from rpd.envs.registry import make
from rpd.envs.specs import EnvSpec, Settings

RESOLVED = {"num_envs": 1, "num_workers": None}
"""Options that do not change episodes."""


def built(task="tabletop/Reach", **options):
    env = make(task, EnvConfig(num_envs=1, **options), num_threads=1)
    env.close()
    return env.spec


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"robot": "xarm6", "max_episode_steps": 20, "reward": "sparse"},
        {"domain_randomization": ("mass", "delay")},
        {"obs_mode": "rgb", "cameras": ("wrist", "front"), "image_size": 16, "frame_stack": 3},
        {"teacher_cameras": ("front",), "teacher_image_size": 24},
    ],
)
def test_environment_of_a_spec_is_built_again(options):
    spec = EnvSpec.model_validate_json(built(**options).model_dump_json(exclude_none=True))
    again = config_for(spec)
    assert built(**again.model_dump(exclude={"num_envs"})) == spec
    assert {key: getattr(again, key) for key in options} == options


def test_every_option_that_changes_episodes_is_recorded():
    """A new field of EnvConfig belongs into the spec, or among those that do not change episodes."""
    held = {*Settings.model_fields, *EnvSpec.model_fields, "robot", "obs_mode", "frame_stack", "cameras", "image_size"}
    assert set(EnvConfig.model_fields) - held == set(RESOLVED)


def test_options_of_simulators_are_kept():
    options = EnvConfig(ignore_terminations=True, reconfigure=True, sim_backend="cpu", num_envs=3)
    spec = recorded(built(), options).model_copy(update={"task": "maniskill/PickCube-v1", "control_mode": "pd_joint_delta_pos"})
    again = config_for(spec)
    assert (again.ignore_terminations, again.reconfigure, again.sim_backend) == (True, True, "cpu")
    assert again.control_mode == "pd_joint_delta_pos"


def test_limits_of_a_spec():
    """A spec that names none is of an ideal arm; those of another simulator have no meaning and are not passed on."""
    spec = built()
    assert config_for(spec).limits == "published" and config_for(spec, robot="xarm6").limits == "published"
    assert config_for(spec.model_copy(update={"settings": None})).limits == "none"
    elsewhere = spec.model_copy(update={"settings": Settings(), "task": "maniskill/PickCube-v1"})
    assert config_for(elsewhere).limits == EnvConfig().limits


def test_another_task_or_robot_has_its_own_episode_length():
    spec = built(max_episode_steps=20, domain_randomization=("mass",))
    for other in ({"task": "tabletop/PickCube"}, {"robot": "ur5e_slow"}):
        config = config_for(spec, **other)
        assert config.max_episode_steps is None and config.domain_randomization == ("mass",)
    assert config_for(spec, "tabletop/Reach", "panda").max_episode_steps == 20


def test_another_simulator_shares_the_observation_alone():
    spec = built(domain_randomization=("mass",), reward="sparse", obs_mode="rgb", cameras=("front",), image_size=16)
    assert config_for(spec, "libero/object-3") == EnvConfig(obs_mode="rgb", cameras=("front",), image_size=16)


def test_differences_name_both_sides():
    a, b = built(max_episode_steps=20, domain_randomization=("mass",)), built("tabletop/PickCube", robot="xarm6")
    assert differences(a, a) == []
    assert differences(a, b) == [
        "task tabletop/Reach, here tabletop/PickCube", "robot panda, here xarm6", "max_episode_steps 20, here 50",
        "domain_randomization mass, here none",
    ]  # fmt: skip
    assert summary(a) == "tabletop/Reach on panda, dense reward, 20 steps at 20 Hz, domain_randomization mass, limits published"


def test_limits_of_a_file_are_in_the_spec(tmp_path, monkeypatch):
    """A policy is evaluated within the limits that it was trained with, wherever it is and whatever the file is now."""
    file = tmp_path / "mine.yaml"
    file.write_text((Path(__file__).parents[2] / "configs" / "robots" / "panda.yaml").read_text())
    spec = EnvSpec.model_validate_json(built(limits=str(file)).model_dump_json())
    assert "mine.yaml" in spec.settings.limits and str(tmp_path) not in spec.settings.limits
    file.unlink()
    again = make("tabletop/Reach", config_for(spec).model_copy(update={"num_envs": 1}), num_threads=1)
    assert again.spec == spec and again._control._limits.tcp_speed == 0.25
    assert re.search(r"limits mine.yaml \([0-9a-f]{8}\)$", summary(spec))
    assert differences(spec, built())[0].startswith("limits mine.yaml (")
    with pytest.raises(ConfigError, match=r"limits of mine.yaml is of robot panda, and the environment has robot xarm6"):
        make("tabletop/Reach", config_for(spec, robot="xarm6"), num_threads=1)
