"""Bridges: a teacher's units, frame and gripper to an environment's, by hand-computed numbers; what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec
from rpd.teachers.vla.action_mapping import connect, load_action_mapping, parse_action_mapping, shipped

NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


def make_spec(names=NAMES, units=("m",) * 3 + ("rad",) * 3 + ("open",), scale=(0.1,) * 6 + (1.0,), frame="base") -> EnvSpec:
    return EnvSpec(
        task="toy/Toy",
        embodiment=Embodiment(name="toy", num_joints=7, descriptor={}),
        observations={},
        state_names=(),
        action=ActionSpec(
            names=names, units=units, scale=scale, discrete=tuple(n == "gripper" for n in names), frame=frame
        ),
        control_hz=20,
        max_episode_steps=50,
        reward="sparse",
    )  # fmt: skip


def act(action_mapping, action, spec=None):
    spec = spec or make_spec()
    return connect(load_action_mapping(action_mapping), spec.action.dim, spec, "vla").to_env(np.array(action)).tolist()


def test_environment_s_own_actions():
    assert act("env", [0.5, 0, 0, 0, 0, -0.2, -1]) == [0.5, 0, 0, 0, 0, -0.2, -1]


def test_metres():
    """0.05 m where 1 is 0.1 m; a gripper at 0, half-way and 1."""
    assert act("metres", [0.05, 0, -0.2, 0, 0.01, 0, 1]) == pytest.approx([0.5, 0, -2, 0, 0.1, 0, 1])
    assert [act("metres", [0] * 6 + [g])[-1] for g in (0, 0.5, 0.75)] == [-1, 0, 0.5]


def test_libero():
    """1 is 0.05 m or 0.5 rad; -1 opens."""
    assert act("libero", [1, -0.5, 0, 0.1, 0, 0, -1]) == pytest.approx([0.5, -0.25, 0, 0.5, 0, 0, 1])
    assert act("libero", [0] * 6 + [1])[-1] == -1
    assert [act("libero-rlds", [0] * 6 + [g])[-1] for g in (0, 1)] == [-1, 1]


def test_environment_that_turns_the_other_way():
    """ManiSkill's rotations have a negative scale."""
    spec = make_spec(scale=(0.1, 0.1, 0.1, -0.1, -0.1, -0.1, 1.0))
    assert act("metres", [0, 0, 0, 0.05, 0, 0, 0], spec)[3] == pytest.approx(-0.5)


@pytest.mark.parametrize("name", sorted({*shipped()} - {"droid"}))
def test_every_shipped_action_mapping_fits_an_arm(name):
    connect(load_action_mapping(name), 7, make_spec(), "vla")


def test_droid_s_action_mapping_fits_joint_velocities():
    names = (*(f"joint_{i}" for i in range(1, 8)), "gripper")
    spec = make_spec(names=names, units=("rad/s",) * 7 + ("open",), scale=(1.0,) * 8, frame="joint")
    action = spec.action.model_copy(update={"discrete": (False,) * 7 + (True,)})
    found = connect(load_action_mapping("droid"), 8, spec.model_copy(update={"action": action}), "pi0")
    assert found.to_env(np.array([1.0] * 7 + [1.0])).tolist() == [3.0] * 7 + [-1.0]  # 1 closes


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            make_spec(units=("mm",) * 3 + ("rad",) * 3 + ("open",)),
            r"units of 'x' differ: teacher has m; environment \(toy/Toy\) has mm",
        ),
        (make_spec(frame="tool"), r"action frames differ: teacher has base; environment \(toy/Toy\) has tool"),
        (
            make_spec(names=("x", "y", "z", "rx", "ry", "rz", "gripper")),
            r"action dimensions differ: teacher has x y z roll pitch yaw gripper; environment \(toy/Toy\) has x y z rx",
        ),
        (
            make_spec(names=("x", "y", "z", "roll", "pitch", "yaw", "finger")),
            r"action dimensions differ: .* yaw gripper; environment",
        ),
    ],
)
def test_mismatch_is_refused(spec, said):
    with pytest.raises(SpecMismatch, match=f"teacher 'vla' does not fit environment: {said}"):
        connect(load_action_mapping("metres"), 7, spec, "vla")


def test_grippers_and_rates_that_do_not_fit():
    action_mapping = parse_action_mapping(b"action: {gripper: {unit: m}}", "b")
    with pytest.raises(SpecMismatch, match=r"units of 'gripper' differ: teacher has m; environment .* has open or closed"):
        connect(action_mapping, 1, make_spec(("gripper",), ("open",), (1.0,)), "vla")
    action_mapping = parse_action_mapping(b"action: {x: {open: 1, closed: 0}}", "b")
    with pytest.raises(SpecMismatch, match=r"units of 'x' differ: teacher has open or closed; environment .* has m"):
        connect(action_mapping, 1, make_spec(("x",), ("m",), (1.0,)), "vla")
    with pytest.raises(SpecMismatch, match=r"control rates differ: teacher has 5 Hz; environment \(toy/Toy\) has 20 Hz"):
        connect(parse_action_mapping(b"{action: env, control_hz: 5}", "b"), 7, make_spec(), "vla")


def test_as_many_dimensions_as_the_statistics():
    with pytest.raises(SpecMismatch, match=r"its actions have 8 dimensions, the action mapping names 7: x y z"):
        connect(load_action_mapping("metres"), 8, make_spec(), "vla")
    with pytest.raises(SpecMismatch, match=r"numbers of action dimensions differ: teacher has 8; environment .* has 7"):
        connect(load_action_mapping("env"), 8, make_spec(), "vla")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("action: [", r"b.yaml: not valid YAML"),
        ("", r"b.yaml: Input should be a valid"),
        ("frame: base", r"b.yaml: action: Field required"),
        ("action: metres", r"b.yaml: action: must be env, or the teacher's dimensions by name"),
        ("action: {x: {unit: m, scale: 0}}", r"b.yaml: action.x: scale 0 would mean"),
        ("action: {x: {unit: m, scale: .inf}}", r"b.yaml: action.x.scale: .*finite"),
        ("action: {x: {unit: m, scal: 2}}", r"b.yaml: action.x.scal: Extra inputs"),
        ("action: {x: {scale: 2}}", r"b.yaml: action.x: needs a unit, or open and closed"),
        ("action: {x: {unit: m, open: 1, closed: 0}}", r"b.yaml: action.x: needs a unit, or open and closed"),
        ("action: {gripper: {open: 1, closed: 1}}", r"b.yaml: action.gripper: a gripper needs open and closed that differ"),
        ("action: {gripper: {open: 1}}", r"b.yaml: action.gripper: needs a unit, or open and closed"),
        ("{action: env, cam: x}", r"b.yaml: cam: Extra inputs"),
    ],
)
def test_mistakes_in_a_action_mapping(text, said):
    with pytest.raises(ConfigError, match=said) as error:
        parse_action_mapping(text.encode(), "b.yaml")
    assert "\n" not in str(error.value)


def test_action_mappings_by_name_and_by_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("action: env")
    assert load_action_mapping("mine.yaml") == load_action_mapping("env")
    with pytest.raises(ConfigError, match=r"unknown action mapping 'metre': did you mean metres"):
        load_action_mapping("metre")
    with pytest.raises(ConfigError, match=r"no.yaml: cannot be read .*; shipped action mappings: droid, env, libero"):
        load_action_mapping("no.yaml")
