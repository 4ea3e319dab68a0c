"""TAID (arXiv 2501.16937): a target that moves from the student to the teacher, p_t ~ pi_S^(1 - t) pi_T^t, without gradient.

A teacher that is far from its student is approached in steps of a size that the student can follow. pi_S is the policy that
collected the batch.

- Gaussians: 1 / s_t² = (1 - t) / sigma² + t / s², m_t = s_t² ((1 - t) mu / sigma² + t m / s²).
- A single action: (1 - t) mu + t m.
- Bins and grippers: logits are interpolated.

t starts at `START` and never falls behind a linear ramp that reaches 1 at `decay_steps`. It moves faster while the loss falls:
t += a sigmoid(c) (1 - t) per batch, c the moving average of the relative drop of the loss.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.algorithms.distillation.divergences import MIN_PROB
from rpd.config.schema import DistillConfig
from rpd.students.networks.distribution import ActionDistribution

START = 0.4
"""Initial t."""
SPEED = 0.02
"""a: 40 times TAID's 5e-4, as its steps are minibatches and these are batches of about 40."""
MEMORY = 0.99
"""Decay of the moving average c."""


class MovingTarget:
    """State of the target: t, c and the last loss, as scalar tensors.

    Args:
        config: smallest std of the teacher, and `decay_steps`.
        bin_edges: [A, B + 1] of a teacher with bins, or None.
    """

    def __init__(self, config: DistillConfig, bin_edges: Tensor | None) -> None:
        self.config, self._bin_edges = config, bin_edges
        self.t, self._drop, self._loss = torch.tensor(START), torch.zeros(()), torch.zeros(())

    def advance(self, step: int, loss: Tensor | None) -> None:
        """Move t before the batch that starts at `step`, from the mean loss of the last update; None: none yet."""
        t, drop, last = (x if loss is None else x.to(loss.device) for x in (self.t, self._drop, self._loss))
        if loss is not None:
            gain = torch.where(last > 0, (last - loss) / last.clamp_min(1e-8), 0.0)
            drop = MEMORY * drop + (1 - MEMORY) * gain
            t = t + SPEED * drop.sigmoid() * (1 - t)
            last = loss
        ramp = START + (1 - START) * min(step / self.config.decay_steps, 1.0)
        self.t, self._drop, self._loss = t.clamp(ramp, 1.0), drop, last

    def between(self, teacher: TensorDict, student: ActionDistribution) -> TensorDict:
        """Teacher fields [M] moved towards the student [M]."""
        t, discrete = self.t.to(student.raw.device), student.discrete
        moved = teacher.copy()
        mean = teacher["mean"]
        odds = ((mean + 1) / 2).clamp(MIN_PROB, 1 - MIN_PROB).logit()
        gripper = torch.tanh(((1 - t) * student.logits + t * odds) / 2)  # 2 p - 1
        if "std" in teacher.keys():  # noqa: SIM118  (a TensorDict)
            std = teacher["std"].masked_fill(discrete, 1.0).clamp_min(self.config.min_teacher_std)
            own, its = (1 - t) / student.std.square(), t / std.square()
            moved["std"] = (own + its).rsqrt()
            mean = (own * student.mean + its * mean) / (own + its)
        else:
            mean = (1 - t) * student.mean + t * mean
        moved["mean"] = torch.where(discrete, gripper, mean)
        if "bin_logits" in teacher.keys():  # noqa: SIM118
            assert self._bin_edges is not None, "a teacher with bins has bin edges"
            edges = self._bin_edges.to(student.raw.device)
            centres = (edges[:, 1:] + edges[:, :-1]) / 2
            own = -0.5 * ((centres - student.mean[..., None]) / student.std[..., None]).square()
            moved["bin_logits"] = ((1 - t) * own + t * teacher["bin_logits"]).log_softmax(-1)
        return moved

    def state_dict(self) -> dict[str, float]:
        """State for a resume, as JSON numbers."""
        return {"target.t": self.t.item(), "target.drop": self._drop.item(), "target.loss": self._loss.item()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore `state_dict`."""
        self.t, self._drop, self._loss = (torch.tensor(state[f"target.{name}"]) for name in ("t", "drop", "loss"))
