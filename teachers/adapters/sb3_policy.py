"""The actor of a stable-baselines3 policy, rebuilt from the names and shapes of its tensors."""

from __future__ import annotations

import itertools
import re

from torch import Tensor, nn

from rpd.envs.finite import nan_where_invalid
from rpd.teachers.adapters.sb3_normalize import ObsNormalizer

MIN_LOG_STD, MAX_LOG_STD = -20.0, 2.0  # of SAC, as in stable_baselines3/sac/policies.py
UNUSED = ("mlp_extractor.value_net.", "value_net.", "critic.", "critic_target.", "actor_target.")
"""Prefixes of the tensors of critics and target networks, which are not used."""


class SB3Policy(nn.Module):
    """The actor: state [N, S] -> mean [N, A] before any squashing, and log std ([N, A], [A], or None: deterministic)."""

    def __init__(
        self, weights: dict[str, Tensor], activation: type[nn.Module] | None, normalizer: ObsNormalizer | None = None
    ) -> None:
        """Rebuild the actor from a policy's state dict.

        Args:
            weights: ``policy.pth``.
            activation: between layers; None: the algorithm's default.
            normalizer: normalizer of the states; None: not normalized.

        Raises:
            ValueError: names the unsupported part of the policy.
        """
        super().__init__()
        on_policy = "action_net.weight" in weights
        if not on_policy and not any(name.startswith("actor.mu.") for name in weights):
            raise ValueError("it is not a PPO, A2C, SAC, TD3 or DDPG policy")
        self.squash, self.normalizer = not on_policy, normalizer
        activation = activation or (nn.Tanh if on_policy else nn.ReLU)

        left = {name: tensor for name, tensor in weights.items() if not name.startswith(UNUSED)}
        hidden = _layers(left, "mlp_extractor.policy_net" if on_policy else "actor.latent_pi")
        head = _layers(left, "action_net" if on_policy else "actor.mu")  # TD3 keeps its whole network in actor.mu
        _check_chain(hidden + head)
        *body, self.mean = hidden + head
        self.state_dim = (hidden + head)[0].in_features
        self.body = nn.Sequential(*(module for layer in body for module in (layer, activation())))

        actions = self.mean.out_features
        name = "log_std" if on_policy else "actor.log_std"
        self.log_std: nn.Module | nn.Parameter | None = None
        if name in left:
            if left[name].ndim != 1:
                raise ValueError("it explores with gSDE (use_sde=True), which is not supported")
            if len(left[name]) != actions:
                raise ValueError(f"its {name} has {len(left[name])} numbers for {actions} action dimensions")
            self.log_std = nn.Parameter(left.pop(name))
        elif f"{name}.weight" in left:
            (self.log_std,) = _layers(left, name)
            if (self.log_std.in_features, self.log_std.out_features) != (self.mean.in_features, actions):
                raise ValueError(f"its layer {name} is not of the size of the one of the mean")
        if left:
            raise ValueError(f"its tensors {', '.join(sorted(left)[:4])}{'…' if len(left) > 4 else ''} are not supported")
        self.requires_grad_(False)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the mean and the log std of the Gaussian, before any squashing."""
        state = nan_where_invalid(state)  # a clip or a tanh would hide unsound values
        features = self.body(state if self.normalizer is None else self.normalizer(state))
        mean = self.mean(features)
        if isinstance(self.log_std, nn.Module):
            return mean, self.log_std(features).clamp(MIN_LOG_STD, MAX_LOG_STD)
        return mean, self.log_std


def _layers(weights: dict[str, Tensor], prefix: str) -> list[nn.Linear]:
    """Remove the linear layers with a prefix from `weights`: ``prefix.weight``, or ``prefix.0``, ``prefix.2``...

    Raises:
        ValueError: they are not linear layers with activations in between, or do not fit each other.
    """
    pattern = re.compile(re.escape(prefix) + r"\.(?:(\d+)\.)?(\w+)")
    parts: dict[int, dict[str, Tensor]] = {}
    for name, match in [(name, match) for name in weights if (match := pattern.fullmatch(name))]:
        parts.setdefault(int(match[1] or 0), {})[match[2]] = weights.pop(name)
    layers: list[nn.Linear] = []
    for expected, (index, part) in enumerate(sorted(parts.items())):
        if index != 2 * expected or part.keys() != {"weight", "bias"} or part["weight"].ndim != 2:
            raise ValueError(f"its layer {prefix}.{index} ({', '.join(part)}) is not a linear one between activations")
        layer = nn.Linear(part["weight"].shape[1], part["weight"].shape[0])
        if part["bias"].shape != layer.bias.shape:
            shape = list(part["bias"].shape)
            raise ValueError(f"its layer {prefix}.{index} has biases {shape} for {layer.out_features} outputs")
        layer.load_state_dict(part)
        layers.append(layer)
    return layers


def _check_chain(layers: list[nn.Linear]) -> None:
    """Raise ValueError if layers are missing, or the sizes of successive layers differ."""
    if not layers:
        raise ValueError("it has no layers")
    for before, after in itertools.pairwise(layers):
        if before.out_features != after.in_features:
            raise ValueError(f"its layer of {before.out_features} outputs does not fit the next, of {after.in_features} inputs")
