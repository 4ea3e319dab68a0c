"""GAE against hand-computed numbers and against its definition."""

import pytest
import torch

from rpd.algorithms.gae import gae, gae_finite_horizon

T = torch.tensor
GAMMA, LAM = 0.5, 0.5  # gamma lambda = 1/4
REWARD = T([[1.0], [2.0], [4.0]])
VALUE = T([[8.0], [4.0], [2.0]])
LAST = T([16.0])


def flags(*steps: int) -> torch.Tensor:
    return torch.tensor([[t in steps] for t in range(3)])


def column(x: torch.Tensor) -> list[float]:
    return x[:, 0].tolist()


def test_no_end() -> None:
    # delta: 4 + 8 - 2 = 10;  2 + 1 - 4 = -1;  1 + 2 - 8 = -5
    # A:     10;  -1 + 10/4 = 1.5;  -5 + 1.5/4 = -4.625
    advantage, returns = gae(REWARD, VALUE, flags(), flags(), torch.zeros(3, 1), LAST, GAMMA, LAM)
    assert column(advantage) == [-4.625, 1.5, 10.0]
    assert column(returns) == [3.375, 5.5, 12.0]


def test_termination_has_no_value_beyond_and_cuts_the_trace() -> None:
    # step 1 ends: delta_1 = 2 - 4 = -2 = A_1;  A_0 = -5 - 2/4 = -5.5;  A_2 = 10 as before
    ignored = torch.full((3, 1), 99.0)
    advantage, _ = gae(REWARD, VALUE, flags(1), flags(), ignored, LAST, GAMMA, LAM)
    assert column(advantage) == [-5.5, -2.0, 10.0]


def test_time_out_bootstraps_from_the_final_value_and_cuts_the_trace() -> None:
    # step 1 ends with V(final) = 12: delta_1 = 2 + 6 - 4 = 4 = A_1;  A_0 = -5 + 4/4 = -4
    final = T([[99.0], [12.0], [99.0]])
    advantage, returns = gae(REWARD, VALUE, flags(), flags(1), final, LAST, GAMMA, LAM)
    assert column(advantage) == [-4.0, 4.0, 10.0]
    assert column(returns) == [4.0, 8.0, 12.0]


def test_end_with_the_last_step_ignores_the_value_of_the_next_episode() -> None:
    advantage, _ = gae(REWARD, VALUE, flags(2), flags(), torch.zeros(3, 1), LAST, GAMMA, LAM)
    assert advantage[2].item() == 2.0  # 4 - 2
    advantage, _ = gae(REWARD, VALUE, flags(), flags(2), T([[0.0], [0.0], [6.0]]), LAST, GAMMA, LAM)
    assert advantage[2].item() == 5.0  # 4 + 3 - 2


def test_success_on_the_last_allowed_step_is_a_termination() -> None:
    both, _ = gae(REWARD, VALUE, flags(1), flags(1), torch.full((3, 1), 99.0), LAST, GAMMA, LAM)
    assert column(both) == [-5.5, -2.0, 10.0]


def test_finite_horizon_by_hand() -> None:
    # t=2: G1 = 4 + 8 = 12;                                   A = 12 - 2 = 10
    # t=1: G1 = 2 + 1 = 3, G2 = 2 + 2 + 4 = 8;                A = (3 + 8/2) / 1.5 - 4 = 2/3
    # t=0: G1 = 1 + 2 = 3, G2 = 1 + 1 + .5 = 2.5, G3 = 1 + 1 + 1 + 2 = 5
    #                                                         A = (3 + 2.5/2 + 5/4) / 1.75 - 8 = -34/7
    advantage, returns = gae_finite_horizon(REWARD, VALUE, flags(), flags(), torch.zeros(3, 1), LAST, GAMMA, LAM)
    assert column(advantage) == pytest.approx([-34 / 7, 2 / 3, 10.0])
    assert column(returns) == pytest.approx([22 / 7, 14 / 3, 12.0])


def test_finite_horizon_by_hand_with_ends() -> None:
    # step 1 terminates: A_1 = 2 - 4;  t=0: G1 = 1 + 2 = 3, G2 = 1 + 1 = 2: A = (3 + 2/2) / 1.5 - 8
    advantage, _ = gae_finite_horizon(REWARD, VALUE, flags(1), flags(), torch.full((3, 1), 99.0), LAST, GAMMA, LAM)
    assert column(advantage) == pytest.approx([4 / 1.5 - 8, -2.0, 10.0])
    # step 1 times out with V = 12: A_1 = 2 + 6 - 4;  t=0: G2 = 1 + 1 + 3 = 5: A = (3 + 5/2) / 1.5 - 8
    final = T([[99.0], [12.0], [99.0]])
    advantage, _ = gae_finite_horizon(REWARD, VALUE, flags(), flags(1), final, LAST, GAMMA, LAM)
    assert column(advantage) == pytest.approx([5.5 / 1.5 - 8, 4.0, 10.0])


def brute_force(finite: bool, reward, value, terminated, truncated, final, last, gamma, lam) -> torch.Tensor:
    """The definitions: an average of all k-step returns, one environment and one step at a time."""
    steps, n = reward.shape
    advantage = torch.zeros(steps, n, dtype=reward.dtype)
    for i in range(n):
        for t in range(steps):
            returns, total, k = [], 0.0, 0
            while True:
                s = t + k
                total += gamma**k * reward[s, i]
                k += 1
                end = terminated[s, i] or truncated[s, i]
                if terminated[s, i]:
                    beyond = 0.0
                elif truncated[s, i]:
                    beyond = final[s, i]
                else:
                    beyond = value[s + 1, i] if s + 1 < steps else last[i]
                returns.append(total + gamma**k * beyond)
                if end or s + 1 == steps:
                    break
            weights = [lam**j for j in range(len(returns))]
            if not finite:  # (1 - lambda) lambda^j, and the last return takes what remains
                weights = [(1 - lam) * w for w in weights]
                weights[-1] = lam ** (len(returns) - 1)
            mean = sum(w * g for w, g in zip(weights, returns, strict=True)) / sum(weights)
            advantage[t, i] = mean - value[t, i]
    return advantage


@pytest.mark.parametrize("fn", [gae, gae_finite_horizon])
def test_matches_the_definition(fn) -> None:
    g = torch.Generator().manual_seed(0)
    shape = (9, 6)
    reward, value, final = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(3))
    last = torch.randn(6, generator=g, dtype=torch.float64)
    terminated = torch.rand(shape, generator=g) < 0.15
    truncated = torch.rand(shape, generator=g) < 0.15
    args = (reward, value, terminated, truncated, final, last, 0.9, 0.7)
    assert (terminated.any() and truncated.any()).item()
    advantage, returns = fn(*args)
    torch.testing.assert_close(advantage, brute_force(fn is gae_finite_horizon, *args))
    torch.testing.assert_close(returns, advantage + value)
