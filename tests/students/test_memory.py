"""Windows of observations and chunks of actions, on numbers made by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rpd.envs.errors import ConfigError
from rpd.students.action_chunking import RecedingHorizon, TemporalEnsemble
from rpd.students.obs_history import History

CPU = torch.device("cpu")


def picture(*values):
    """One image of one pixel per environment."""
    return {"a": torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1, 1)[..., 0].expand(-1, 1, 1, 3)}


def seen(history, *values):
    frames, valid = history.push(picture(*values))
    return frames["a"][:, :, 0, 0, 0].tolist(), valid.tolist()


def test_history():
    history = History(3, "t")
    assert seen(history, 1, 5) == ([[1, 1, 1], [5, 5, 5]], [[False, False, True]] * 2)
    assert seen(history, 2, 6) == ([[1, 1, 2], [5, 5, 6]], [[False, True, True]] * 2)
    history.reset(torch.tensor([False, True]))
    assert seen(history, 3, 7) == ([[1, 2, 3], [7, 7, 7]], [[True, True, True], [False, False, True]])
    again = History(3, "t")
    again.load_state_dict({k: v.clone() for k, v in history.state_dict().items()})
    assert seen(again, 4, 8) == seen(history, 4, 8) == ([[2, 3, 4], [7, 7, 8]], [[True] * 3, [False, True, True]])


def test_window_of_one_has_no_history():
    history = History(1, "t")
    assert seen(history, 1, 2) == ([[1], [2]], [[True], [True]])
    assert seen(history, 3) == ([[3]], [[True]]) and history.state_dict() == {}


def test_another_number_of_environments():
    history = History(2, "octo:x")
    history.reset(torch.ones(2, dtype=torch.bool))
    with pytest.raises(
        ConfigError, match=r"octo:x: a window of 2 steps holds observations of 2 environments, but 1 were passed"
    ):
        history.push(picture(1))
    history.reset(torch.ones(1, dtype=torch.bool))  # another set of environments, from their beginning
    assert seen(history, 1) == ([[1, 1]], [[False, True]])
    history.reset(torch.ones(2, dtype=torch.bool))  # and back, with something in memory
    assert seen(history, 3, 4) == ([[3, 3], [4, 4]], [[False, True]] * 2)


def drawer(horizon=3):
    """Chunks that say when they were drawn, and which action of theirs it is: 10 * call + place."""
    calls = []

    def draw(rows):
        calls.append(rows.tolist())
        return (10.0 * len(calls) + torch.arange(horizon)).view(1, -1, 1).expand(len(rows), -1, -1)

    return draw, calls


def test_receding_horizon():
    chunks, (draw, calls) = RecedingHorizon(2), drawer()
    assert [chunks.next(2, CPU, draw)[:, 0].tolist() for _ in range(3)] == [[10, 10], [11, 11], [20, 20]]
    chunks.reset(torch.tensor([True, False]))
    assert chunks.next(2, CPU, draw)[:, 0].tolist() == [30, 21]
    again = RecedingHorizon(2)
    again.load_state_dict(chunks.state_dict())
    assert again.next(2, CPU, draw)[:, 0].tolist() == [31, 40]
    assert calls == [[0, 1], [0, 1], [0], [1]]
    assert chunks.next(3, CPU, draw)[:, 0].tolist() == [50] * 3  # other environments


def test_temporal_ensemble():
    k = math.log(2)
    chunks, (draw, _) = TemporalEnsemble(k), drawer()
    found = [float(chunks.next(1, CPU, draw)) for _ in range(4)]
    # the oldest first, with weights 1, 1/2, 1/4: chunks 1-3 say 12, 21, 30 about the third step
    expected = [10.0, (11 + 20 / 2) / 1.5, (12 + 21 / 2 + 30 / 4) / 1.75, (22 + 31 / 2 + 40 / 4) / 1.75]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    again = TemporalEnsemble(k)
    again.load_state_dict(chunks.state_dict())
    assert float(again.next(1, CPU, draw)) == pytest.approx((32 + 41 / 2 + 50 / 4) / 1.75)
    again.reset(torch.tensor([True]))
    assert float(again.next(1, CPU, draw)) == 60


def test_plain_mean():
    chunks, (draw, _) = TemporalEnsemble(0.0), drawer(2)
    assert [float(chunks.next(1, CPU, draw)) for _ in range(3)] == [10, (11 + 20) / 2, (21 + 30) / 2]
