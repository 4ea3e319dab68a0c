"""Numbers that cross a boundary: what is sound, what is made of what is not, and who is named."""

import re

import pytest
import torch

from rpd.envs import finite
from rpd.envs.config import EnvConfig
from rpd.envs.errors import NonFiniteError
from rpd.envs.registry import make

NAN, INF = float("nan"), float("inf")
UNSOUND = (NAN, INF, -INF, 1e30, -1e30)


@pytest.mark.parametrize("bad", UNSOUND)
def test_non_finite_values_become_nan_and_others_are_unchanged(bad):
    x = torch.tensor([0.5, bad, -finite.LIMIT])
    assert finite.is_valid(x).tolist() == [True, False, True]
    for made in (finite.nan_where_invalid(x), finite.clipped(x)):
        assert made.isnan().tolist() == [False, True, False] and made[0] == 0.5


@pytest.mark.parametrize(
    ("logits", "chosen"),
    [([0.0, 1.0], True), ([-INF, 1.0], True), ([NAN, 1.0], False), ([INF, 1.0], False), ([-INF, -INF], False)],
)
def test_action_is_finite_only_for_a_valid_distribution(logits, chosen):
    assert finite.nan_unless_distribution(torch.ones(1), torch.tensor([logits])).isfinite().item() == chosen


@pytest.mark.parametrize("bad", UNSOUND)
def test_message_names_source_tensor_rows_and_entries(bad):
    state = torch.zeros(3, 2)
    state[1:, 1] = bad
    tensors = {"image": torch.zeros(3, 4, 4, 3, dtype=torch.uint8), "state": state}
    with pytest.raises(NonFiniteError, match=re.escape(f"from the camera: state of robot 1, 2: b = {bad:g}")) as caught:
        finite.check(tensors, "camera", {"state": ("a", "b")}, rows="robot")
    assert caught.value.evidence["state"] is state
    finite.check({"image": tensors["image"], "state": torch.zeros(3, 2)}, "camera")


@pytest.mark.parametrize("bad", UNSOUND)
def test_non_finite_observation_names_its_environment(bad):
    env = make("tabletop/Reach", EnvConfig(num_envs=2), num_threads=1)
    obs, action = env.reset(0), torch.full((2, 7), NAN)
    with pytest.raises(NonFiniteError, match=r"from the policy x: action of environment 0, 1: x = nan, y = nan"):
        finite.check_exchange(obs, {"action": action}, "policy x", env.spec)
    obs["state"][1, 3] = bad
    named = env.spec.state_names[3]
    with pytest.raises(NonFiniteError, match=rf"from the environment: state of environment 1: {named} = ") as caught:
        finite.check_exchange(obs, {"action": action}, "policy x", env.spec)
    assert {"state", "privileged", "action"} <= caught.value.evidence.keys()


def test_finite_check_synchronizes_once(monkeypatch):
    """On a GPU every bool of a tensor is a wait: one for a whole exchange that is sound."""
    waits = []
    made = torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: waits.append(1) or made(self))
    env = make("tabletop/Reach", EnvConfig(num_envs=2), num_threads=1)
    obs = env.reset(0)
    waits.clear()
    finite.check_exchange(obs, {"action": torch.zeros(2, 7)}, "policy x", env.spec)
    assert len(waits) == 1
    finite.any_invalid({"a": torch.zeros(3), "b": torch.full((2,), NAN)})
    assert len(waits) == 1


def test_empty_tensors_pass():
    finite.check({"state": torch.zeros(0, 3)}, "environment")
    finite.check({}, "environment")
