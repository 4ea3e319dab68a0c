"""A gripper that could only ever open, or only ever close, is refused: by its bins, its head, and its data."""

from __future__ import annotations

import numpy as np
import pytest

from rpd.envs.errors import SpecMismatch
from rpd.teachers.octo.config import ContinuousHead, DiscreteHead
from rpd.teachers.octo.heads import action_range
from rpd.teachers.octo.statistics import ActionStatistics as OctoStatistics
from rpd.teachers.openvla.actions import ActionBins
from rpd.teachers.openvla.actions import ActionStatistics as OpenVLAStatistics
from rpd.teachers.vla.action_mapping import connect, load_action_mapping, own_action_mapping, parse_action_mapping
from rpd.teachers.vla.reach import Reach

ENDS = ActionBins(1000, 256).centers[[0, -1]]


def gripper_reach(low: float, high: float) -> Reach:
    return Reach(np.array([-1.0] * 6 + [low]), np.array([1.0] * 6 + [high]), "its statistics")


@pytest.mark.parametrize(
    ("action_mapping", "low", "high", "said"),
    [
        ("env", 0, 1, r"'gripper' always opens: its range is 0 to 1 \(its statistics\), all above 0, half-way .* open: 1 and"),
        ("env", 0.002, 0.998, r"0\.002 to 0\.998 .* above 0, .*e\.g\. gripper: {open: 1, closed: 0}"),
        ("env", -1, 0, r"always closes: its range is -1 to 0 .* below 0"),
        ("libero", 0, 1, r"always closes: .* all above 0, half-way between the action mapping's open: -1 and closed: 1"),
        ("libero", -1, -0.2, r"always opens"),
        ("metres", -1, 0.4, r"always closes: its range is -1 to 0.4 .* below 0.5"),
        ("rpd-maniskill", 0.5, 1, r"always opens"),
        ("env", 0.5, 0.5, r"its range is always 0.5"),
        ("env", 0, 0, r"its range is always 0 "),
    ],
)
def test_refused(action_mapping, low, high, said, spec):
    with pytest.raises(SpecMismatch, match=said) as error:
        connect(load_action_mapping(action_mapping), 7, spec, "vla", gripper_reach(low, high))
    assert "\n" not in str(error.value) and "teacher 'vla'" in str(error.value)


@pytest.mark.parametrize(
    ("action_mapping", "low", "high"),
    [
        ("env", -1, 1),
        ("metres", 0, 1),
        ("metres", -1, 1),
        ("libero", -1, 1),
        ("libero-rlds", 0, 1),
        ("rpd-maniskill", 0, 1),  # either encoding of RPD's data
        ("rpd-maniskill", -1, 1),
        ("env", -np.inf, np.inf),
        ("env", -1, -1),  # data without a grasp: kept closed
        ("env", 0.98, 1),
        ("metres", 0, 0),
    ],
)
def test_both_sides_or_kept(action_mapping, low, high, spec):
    connect(load_action_mapping(action_mapping), 7, spec, "vla", gripper_reach(low, high))


def test_continuous_dimensions_may_have_one_side(spec):
    reach = Reach(np.array([0.1] * 6 + [-1.0]), np.array([0.2] * 6 + [1.0]), "x")
    connect(load_action_mapping("env"), 7, spec, "vla", reach)


def test_any_name_of_a_discrete_dimension(spec):
    action = spec.action.model_copy(update={"names": (*spec.action.names[:6], "suction")})
    with pytest.raises(SpecMismatch, match="'suction' always opens"):
        connect(own_action_mapping(action), 7, spec.model_copy(update={"action": action}), "vla", gripper_reach(0, 1))


def openvla(mask, **numbers) -> Reach:
    values = {name: [-1.0] * 6 + [value] for name, value in numbers.items() if name in ("q01", "min")}
    values |= {name: [1.0] * 6 + [value] for name, value in numbers.items() if name not in values}
    return OpenVLAStatistics.model_validate({**values, "mask": [True] * 6 + [mask]}).reach(ENDS, "x")


@pytest.mark.parametrize(
    ("mask", "numbers", "expected"),
    [
        (True, {"q01": 0.0, "q99": 1.0}, (1 / 510, 509 / 510)),  # 255 bins: the middles of the outermost
        (True, {"q01": 0.0, "q99": 1.0, "min": -9.0, "max": 9.0}, (1 / 510, 509 / 510)),  # no bin is beyond the quantiles
        (False, {"q01": 0.0, "q99": 1.0}, (0, 254 / 255)),  # not normalized: bins of -1 .. 1, data of 0 .. 1
        (False, {"q01": 1.0, "q99": 1.0, "min": 0.0, "max": 1.0}, (0, 254 / 255)),
        (False, {"q01": -1.0, "q99": 1.0}, (-254 / 255, 254 / 255)),
    ],
)
def test_openvla_action_range(mask, numbers, expected):
    reach = openvla(mask, **numbers)
    assert (reach.low[-1], reach.high[-1]) == pytest.approx(expected)
    assert np.abs(reach.ends[:, 0]) == pytest.approx([254 / 255] * 2)


def octo(mask, kind="normal", head=(-5.0, 5.0), **numbers) -> Reach:
    values = {name: [0.1] * 6 + [value] for name, value in numbers.items()}
    return OctoStatistics.model_validate({**values, "mask": [True] * 6 + [mask]}).reach(kind, head, "x")


@pytest.mark.parametrize(
    ("mask", "numbers", "expected"),
    [
        (False, {"mean": 0.7, "std": 0.4, "min": 0.0, "max": 1.0}, (0, 1)),
        (False, {"mean": 0.7, "std": 0.4, "p01": 0.0, "p99": 1.0}, (0, 1)),
        (False, {"mean": 0.7, "std": (0.7 * 0.3) ** 0.5}, (0, 1)),  # mean and std alone: the variance of zeros and ones
        (False, {"mean": 0.4, "std": (1 - 0.4**2) ** 0.5}, (-5, 5)),  # of -1 and 1: nothing but the head is known
        (True, {"mean": 0.5, "std": 0.5}, (0, 1)),
        (True, {"mean": 0.5, "std": 0.1}, (0, 1)),  # five standard deviations about the mean
        (True, {"mean": 0.5, "std": 0.5, "min": 0.0, "max": 1.0}, (0, 1)),
    ],
)
def test_octo_action_range(mask, numbers, expected):
    reach = octo(mask, **numbers)
    assert (reach.low[-1], reach.high[-1]) == pytest.approx(expected)


def test_octo_head_action_range():
    """Even bins lie in 0 .. 1: a gripper that is not normalized cannot be -1."""
    discrete = DiscreteHead(readout_key="readout_action", vocab_size=4)
    assert action_range(discrete) == (0.125, 0.875)
    low, high = action_range(discrete.model_copy(update={"normalization_type": "normal", "vocab_size": 256}))
    assert low == pytest.approx(-high, abs=0.01) and high > 3
    assert action_range(ContinuousHead(readout_key="readout_action", max_action=2.0)) == (-2, 2)
    reach = octo(False, head=action_range(discrete), mean=0.0, std=0.9, min=-1.0, max=1.0)
    assert (reach.low[-1], reach.high[-1]) == (0.125, 0.875)


def test_statistics_of_wrong_length_are_ignored():
    reach = OctoStatistics.model_validate({"mean": [0.0], "std": [1.0], "min": [0.0, 1.0], "max": "x"}).reach(
        "normal", (-5, 5), ""
    )
    assert reach.ends.tolist() == [[-5], [5]]


def test_action_mapping_in_part_the_environments(spec):
    """ManiSkill's arm as it takes it, whatever its scale and frame; a gripper of 0 to 1."""
    turned = spec.action.model_copy(update={"scale": (0.1, 0.1, 0.1, -0.1, -0.1, -0.1, 1.0), "frame": "root"})
    found = connect(load_action_mapping("rpd-maniskill"), 7, spec.model_copy(update={"action": turned}), "vla")
    assert found.to_env(np.array([0.5, 0, 0, 0.2, 0, 0, 0])).tolist() == [0.5, 0, 0, 0.2, 0, 0, -1]
    assert [found.to_env(np.array([0.0] * 6 + [g]))[-1] for g in (0, 0.5, 1)] == [-1, 0, 1]
    with pytest.raises(Exception, match="x must be env, or have a unit"):
        parse_action_mapping(b"action: {x: }", "b")


def test_action_mappings_of_rpds_teachers_agree():
    ours, known = load_action_mapping("rpd-maniskill"), load_action_mapping("openvla-7b-finetuned-maniskill")
    assert known.model_copy(update={"unnorm_key": None}) == ours and known.unnorm_key == "maniskill_human:7.0.0"
    assert ours.sides("gripper") == (1, 0)
