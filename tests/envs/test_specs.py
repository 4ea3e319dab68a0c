"""What a policy may move between, and the layout of a teacher's scene."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.envs.privileged_state import ManipulationState, NavigationState
from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec


def spec(**changes) -> EnvSpec:
    values = {
        "task": "tabletop/PickCube",
        "embodiment": Embodiment(name="panda", num_joints=7, descriptor={"reach": 0.855}),
        "observations": {"state": ObsSpec(shape=(3,), dtype="float32")},
        "state_names": ("a", "b", "c"),
        "action": ActionSpec(names=("x", "gripper"), units=("m", "open"), scale=(0.03, 1.0), discrete=(False, True)),
        "control_hz": 20,
        "max_episode_steps": 50,
        "reward": "dense",
    }
    return EnvSpec(**{**values, **changes})


def action(**changes) -> ActionSpec:
    return spec().action.model_copy(update=changes)


def test_spec_survives_json_and_cannot_be_changed():
    assert EnvSpec.model_validate_json(spec(scene=True).model_dump_json()) == spec(scene=True)
    assert spec().action.dim == 2
    with pytest.raises(ValidationError, match="frozen"):
        spec().task = "other"
    with pytest.raises(ValidationError, match="nonsense"):
        spec(nonsense=1)


def test_policy_may_change_task_reward_and_horizon():
    spec().check_policy(spec(task="tabletop/StackCube", reward="sparse", max_episode_steps=70, scene=True))


@pytest.mark.parametrize(
    ("change", "what", "theirs", "ours"),
    [
        ({"embodiment": Embodiment(name="ur5e", num_joints=6, descriptor={})}, "robot", "ur5e", "panda"),
        ({"control_hz": 10}, "control rate", "10 Hz", "20 Hz"),
        ({"observations": {"image.front": ObsSpec(shape=(8, 8, 3), dtype="uint8")}}, "observations", "8, 8, 3", "state"),
        ({"state_names": ("a", "b", "d")}, "state entries", "with d", "with c"),
        ({"state_names": ("b", "a", "c")}, "order of state entries", "b a c", "a b c"),
        ({"action": action(names=("y", "gripper"))}, "action dimensions", "y gripper", "x gripper"),
        ({"action": action(units=("cm", "open"))}, "action units", "cm open", "m open"),
        ({"action": action(scale=(0.05, 1.0))}, "action scale", "0.05 1", "0.03 1"),
        ({"action": action(discrete=(False, False))}, "discrete action dimensions", "(False, False)", "(False, True)"),
        ({"action": action(frame="tool")}, "action frame", "tool", "base"),
    ],
)
def test_policy_that_does_not_fit_is_refused_naming_both_sides(change, what, theirs, ours):
    with pytest.raises(SpecMismatch) as refusal:
        spec().check_policy(spec(**change))
    message = str(refusal.value)
    assert f"{what} differ" in message
    policy, environment = message.split("; environment ")
    assert theirs in policy and ours in environment
    assert "\n" not in message
    assert isinstance(refusal.value, ConfigError)


def test_scene_fields_tile_the_vector():
    covered = [i for field in ManipulationState.fields.values() for i in range(field.start, field.stop)]
    assert covered == list(range(ManipulationState.dim))
    assert ManipulationState.dim == 3 + 4 + 1 + 3 + 4 + 1 + 3 + 4 + 1 + 1


def test_scene_fields_are_views():
    scene = ManipulationState.empty(2)
    assert scene.shape == (2, ManipulationState.dim) and not scene.any()
    ManipulationState.get(scene, "object_pos")[1] = torch.tensor([1.0, 2.0, 3.0])
    assert ManipulationState.get(scene, "object_pos").tolist() == [[0, 0, 0], [1, 2, 3]]
    assert scene.sum() == 6


def test_scene_seen_from_the_hand():
    scene = ManipulationState.empty(3)
    put = lambda name, *rows: ManipulationState.get(scene, name).copy_(torch.tensor(rows))  # noqa: E731
    put("tcp_pos", [0.1, 0.2, 0.3], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    put("object_pos", [0.2, 0.2, 0.1], [0.0, 0.0, -9.0], [0.0, 0.0, 0.0])
    put("target_pos", [0.2, 0.5, 0.1], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    put("grasped", [0.0], [0.0], [1.0])
    half = math.pi / 16  # of an eighth of a turn's half: 4 x 22.5 degrees is a quarter
    turned = [math.cos(half), 0.0, 0.0, math.sin(half)]
    down = [0.0, 1.0, 0.0, 0.0]  # the hand, looking down: its fingers open along -y
    put("tcp_quat", down, down, down)
    put("object_quat", [1.0, 0.0, 0.0, 0.0], turned, [math.cos(math.pi / 4), 0.0, 0.0, math.sin(math.pi / 4)])
    expected = [
        [2.0, 0.0, -4.0, 0.0, 6.0, 0.0, 1.0, 0.0, 0.0],  # ways in units of 5 cm
        [0.0, 0.0, -20.0, 0.0, 0.0, 20.0, 0.0, 1.0, 0.0],  # it fell: the way ends at a metre
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0],  # a quarter turn is none
    ]
    torch.testing.assert_close(ManipulationState.relative(scene), torch.tensor(expected), atol=1e-6, rtol=0)


def test_critic_features_of_navigation_state():
    course = torch.zeros(2, NavigationState.dim)
    put = lambda name, *rows: NavigationState.get(course, name).copy_(torch.tensor(rows))  # noqa: E731
    put("way_pos", [3.0, -4.0], [0.0, 0.0])
    put("distance", [10.0], [0.0])
    put("obstacle_pos", [0.0, 0.25], [-3.0, 0.0])
    expected = [
        [0.6, -0.8, 2.0, math.exp(-20), 0.0, 0.5, math.exp(-0.5)],
        [0.0, 0.0, 0.0, 1.0, -2.0, 0.0, math.exp(-6)],  # at the goal; a surface far away counts as a metre
    ]
    torch.testing.assert_close(NavigationState.relative(course), torch.tensor(expected), atol=1e-6, rtol=0)
    assert NavigationState.relative_dim == 7 and torch.equal(
        spec(course=True).relative(course), NavigationState.relative(course)
    )
    assert (spec(course=True).layout, spec(scene=True).layout, spec().layout) == (NavigationState, ManipulationState, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"control_hz": 1e12}, "control_hz"),
        ({"control_hz": 0}, "control_hz"),
        ({"control_hz": math.nan}, "control_hz"),
        ({"max_episode_steps": 10**9}, "max_episode_steps"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"frames": 10**6}, "frames"),
        ({"observations": {"state": {"shape": [10**9], "dtype": "float32"}}}, "observations.state.shape.0"),
        ({"observations": {"state": {"shape": [-2], "dtype": "float32"}}}, "observations.state.shape.0"),
        ({"observations": {"image.x": {"shape": [60000, 60000, 3], "dtype": "uint8"}}}, "more than the"),
        ({"observations": {"image.x": {"shape": [64, 64], "dtype": "uint8"}}}, r"'image.x' has shape \[64, 64\]"),
        ({"observations": {"image.x": {"shape": [64, 64, 4], "dtype": "uint8"}}, "frames": 3}, r"'image.x' has shape"),
        ({"observations": {"state": {"shape": [999], "dtype": "float32"}}}, r"'state' has shape \[999\], and there are"),
        ({"state_scaled": [True]}, "1 of state_scaled"),
    ],
)
def test_invalid_spec_is_refused(changes, says):
    values = spec().model_dump(mode="json") | changes
    with pytest.raises(ValidationError, match=says):
        EnvSpec.model_validate(values)


@pytest.mark.parametrize("scale", [(math.inf, 1), (1e30, 1), (1,)])
def test_scales_are_lengths_and_one_per_dimension(scale):
    with pytest.raises(ValidationError, match="scale"):
        ActionSpec(names=("x", "y"), units=("m", "m"), scale=scale, discrete=(False, False))
