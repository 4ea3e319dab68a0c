"""The expert of PushT: its model of a push by hand-computed numbers, and how it goes about it."""

from __future__ import annotations

import cmath

import pytest
import torch

from rpd.envs import pusht
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.privileged_state import ManipulationState
from rpd.teachers import registry as teachers
from rpd.teachers.scripted.plan import PUSH, View
from rpd.teachers.scripted.pusht import CONE, LEVER, push, push_t

TOP, END = complex(-19 / 7, 0), complex(37 / 7, 0)  # the middle of the bar's outer face, of the stem's end
N = 20


def judge(way: complex, turn: float, point: complex, normal: complex) -> tuple[float, complex]:
    merit, motion = push(*(torch.tensor([x], dtype=torch.complex64) if i != 1 else torch.tensor([x])
                           for i, x in enumerate((way, turn, point, normal))))  # fmt: skip
    return merit.item(), motion.item()


def test_central_push_moves_straight():
    merit, motion = judge(3, 0.0, TOP, -1)
    assert merit == pytest.approx(1, abs=1e-5) and motion == pytest.approx(3, abs=1e-5)
    assert judge(3, 0.0, END, 1)[0] == pytest.approx(-cmath.cos(CONE).real, abs=0.1)  # from the other side: the wrong way


def test_off_center_push_rotates_the_block():
    # A force of 1 along x at y = 3 turns it by -3 / c², and the point itself moves 1 + 9 / c² along x. With this wanted motion
    # it is the best force: what is wanted across, turning takes away.
    turn = -3 / LEVER**2
    across = pusht.GYRATION**2 * turn * TOP.real / LEVER**2
    merit, motion = judge(complex(1, -across), turn, TOP + 3j, -1)
    assert motion == pytest.approx(complex(1 + 9 / LEVER**2, turn * TOP.real), abs=1e-4)
    swing = (pusht.GYRATION * turn) ** 2
    assert merit == pytest.approx(((1 + swing) / (1 + swing + across**2)) ** 0.5, abs=1e-4)
    # Only to turn it: as good as a force that also shifts it can be, and bad from the other half.
    spin = pusht.GYRATION * 3 / LEVER**2
    assert judge(0, -0.3, TOP + 3j, -1)[0] >= spin / (1 + spin**2) ** 0.5 - 1e-3
    assert judge(0, 0.3, TOP + 3j, -1)[0] < 0


def test_pushes_at_the_best_point_without_contact_on_approach():
    env = envs.make("tabletop/PushT", EnvConfig(num_envs=N, limits="none"), num_threads=1)
    expert = teachers.make("scripted", env.spec)
    obs = env.reset(0)
    first, free = torch.ones(N, dtype=torch.bool), torch.zeros(N, dtype=torch.int64)  # and steps since the last push
    pushed, moved, solved = [], [], 0
    for _ in range(env.spec.max_episode_steps):
        scene = obs["privileged"].clone()
        plan = push_t(View(scene))
        free = torch.where(plan.phase == PUSH, 0, free + 1)
        step = env.step(expert.act(obs, env.instructions))
        obs, shift = (
            step.obs,
            ManipulationState.get(step.obs["privileged"], "object_pos") - ManipulationState.get(scene, "object_pos"),
        )
        running = first & ~(step.terminated | step.truncated)
        pushed.append(shift.norm(dim=1)[running & (free == 0)])
        moved.append(shift.norm(dim=1)[running & (free > 3)])  # before, it may slide on
        solved += int((first & step.terminated).sum())
        first &= ~(step.terminated | step.truncated)
        if not first.any():
            break
    assert solved >= 0.9 * N
    assert torch.cat(pushed).mean() > 5e-3  # m per step
    assert torch.cat(moved).mean() < 5e-5 and torch.cat(moved).max() < 2e-3


def test_labels_are_stateless_and_order_independent():
    env = envs.make("tabletop/PushT", EnvConfig(num_envs=8), num_threads=1)
    expert = teachers.make("scripted", env.spec)
    obs = env.reset(0)
    for _ in range(25):
        obs = env.step(expert.act(obs, env.instructions)).obs
    label = expert.label(obs, env.instructions).mean
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    torch.testing.assert_close(teachers.make("scripted", env.spec).label(obs[order], []).mean, label[order])


@pytest.mark.parametrize(
    ("name", "said"), [("modes=2", "has no grasp"), ("fail=grasp", "has no phase 'grasp'; it has: approach")]
)
def test_errors_that_do_not_apply_are_refused(name, said):
    env = envs.make("tabletop/PushT", EnvConfig(num_envs=1), num_threads=1)
    with pytest.raises(ConfigError, match=said):
        teachers.make(f"scripted:{name}", env.spec)
