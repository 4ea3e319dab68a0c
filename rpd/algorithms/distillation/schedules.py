"""w(t): the weight of the distillation term, as a function of the environment steps t of the run."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rpd.config.points import EXAMPLE, interpolate, parse_points
from rpd.config.schema import DistillConfig
from rpd.envs.errors import ConfigError


def constant(config: DistillConfig, step: int) -> float:
    """Return w = w0."""
    return config.weight


def linear(config: DistillConfig, step: int) -> float:
    """Return w = w0 (1 - t / decay_steps), at least 0."""
    return config.weight * max(0.0, 1.0 - step / config.decay_steps)


def cosine(config: DistillConfig, step: int) -> float:
    """Return w = w0 (1 + cos(pi t / decay_steps)) / 2, then 0: the annealing option of RPD's code."""
    return 0.0 if step >= config.decay_steps else config.weight * 0.5 * (1.0 + math.cos(math.pi * step / config.decay_steps))


def piecewise(config: DistillConfig, step: int) -> float:
    """Return w between the nearest two of `points`, linearly: the schedule of a coefficient in rl_games."""
    return interpolate(parse_points(config.points), step)


CURVES: dict[str, Callable[[DistillConfig, int], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "piecewise": piecewise,
    "gradient-ratio": linear,  # the curve of the ratio, not of the weight
}


class Schedule:
    """The weight w of one run, as a tensor that is updated without synchronizing with the device.

    With ``gradient-ratio``, w is chosen so that ||w grad D|| / ||grad RL|| = rho(t): the effect of `weight` then does not
    depend on the scale of the divergence or on sigma (the gradient of nll is 1 / (2 sigma²) times that of mse). The norms come
    from one minibatch per iteration and are smoothed; before the first measurement w = 0.
    """

    SMOOTHING = 0.9
    """Decay of the running gradient norms per measurement."""
    MAX_WEIGHT = 100.0
    """gradient-ratio: upper bound of w, for a vanishing grad D."""

    def __init__(self, config: DistillConfig) -> None:
        self.config = config
        self.adaptive = config.schedule == "gradient-ratio"
        self._points = parse_points(config.points)
        self._reward_points = parse_points(config.reward_points)
        if (config.schedule == "piecewise") != bool(self._points):
            raise ConfigError(f"schedule piecewise and distill.points belong together, e.g. --distill.points {EXAMPLE}")
        self._target = 0.0
        self._norms: Tensor | None = None  # [2]: running ||grad D||, ||grad RL||
        self.weight = torch.zeros(())

    def value(self, step: int) -> float:
        """Return w(t), or rho(t) with ``gradient-ratio``."""
        return CURVES[self.config.schedule](self.config, step)

    def active(self, step: int) -> bool:
        """Return whether w is above zero now or at any later time."""
        later = [value for at, value in self._points if at > step]
        return self.value(step) > 0 or any(later)  # every other curve is non-increasing

    def reward_weight(self, step: int) -> float:
        """Return the weight of PPO's surrogate; 1 without `reward_points`."""
        return interpolate(self._reward_points, step) if self._reward_points else 1.0

    def begin(self, step: int, device: torch.device) -> None:
        """Set the weight for the iteration that starts at `step`."""
        self._target = self.value(step)
        if self.adaptive:
            self._rescale(device)
        else:
            self.weight = torch.full((), self._target, device=device)

    def observe(self, norms: Tensor) -> None:
        """Record the norms [2] of the gradients of D (unweighted) and of the RL loss."""
        if self.adaptive:
            previous = norms if self._norms is None else self._norms
            norms = torch.where(norms[0] > 0, norms, previous)  # no labeled row in this minibatch
            self._norms = self.SMOOTHING * previous + (1 - self.SMOOTHING) * norms
            self._rescale(norms.device)

    def state_dict(self) -> dict[str, float]:
        """Return the running norms for a resume, as exact JSON numbers."""
        if self._norms is None:
            return {}
        distill, reward = self._norms.tolist()
        return {"grad_distill": distill, "grad_reward": reward}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore `state_dict`."""
        self._norms = torch.tensor([state["grad_distill"], state["grad_reward"]]) if state else None

    def _rescale(self, device: torch.device) -> None:
        if self._norms is None:
            self.weight = torch.zeros((), device=device)
            return
        self._norms = self._norms.to(device)
        distill, reward = self._norms.unbind()
        # w = rho ||grad RL|| / ||grad D||
        weight = (self._target * reward / distill).clamp_max(self.MAX_WEIGHT)
        self.weight = torch.where(distill > 0, weight, 0.0)
