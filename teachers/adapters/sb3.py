"""A stable-baselines3 policy on vector states as a teacher: PPO, A2C, SAC, TD3 and DDPG, with their MLPs.

Neither stable-baselines3 nor pickle is needed: the ``.zip`` holds ``policy.pth``, read with ``weights_only``, and the
network follows from its names and shapes. VecNormalize statistics are a pickle of their own and are not read: train
on `envs.sb3.SB3VecEnv` without VecNormalize.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from envs.errors import ConfigError, SpecMismatch
from envs.specs import EnvSpec
from teachers.base import Teacher, TeacherOutput
from teachers.registry import Options, parse_options

ACTIVATIONS: dict[str, type[nn.Module]] = {"Tanh": nn.Tanh, "ReLU": nn.ReLU, "ELU": nn.ELU, "LeakyReLU": nn.LeakyReLU}
MIN_LOG_STD, MAX_LOG_STD = -20.0, 2.0  # of SAC, as in stable_baselines3/sac/policies.py


class SB3Policy(nn.Module):
    """The actor: state [N, S] -> mean [N, A] before any squashing, and log std ([N, A], [A], or None: deterministic)."""

    def __init__(self, weights: dict[str, Tensor], activation: type[nn.Module] | None) -> None:
        """Rebuild the actor from a policy's state dict.

        Args:
            weights: ``policy.pth``.
            activation: between layers; None: the algorithm's default.

        Raises:
            ValueError: saying what about the policy is not supported.
        """
        super().__init__()
        if any("features_extractor" in name for name in weights):
            raise ValueError("it has a features extractor; only policies on vector states are supported")
        on_policy = "action_net.weight" in weights
        if not on_policy and not any(name.startswith("actor.mu.") for name in weights):
            raise ValueError("it is not a PPO, A2C, SAC, TD3 or DDPG policy")
        self.squash = not on_policy
        activation = activation or (nn.Tanh if on_policy else nn.ReLU)

        hidden = _linears(weights, "mlp_extractor.policy_net" if on_policy else "actor.latent_pi")
        head = _linears(weights, "action_net" if on_policy else "actor.mu")  # TD3 keeps its whole network in actor.mu
        *body, self.mean = hidden + head
        self.state_dim = (hidden + head)[0].in_features
        self.body = nn.Sequential(*(module for layer in body for module in (layer, activation())))

        name = "log_std" if on_policy else "actor.log_std"
        if name in weights and weights[name].ndim == 1:
            self.log_std: nn.Module | nn.Parameter | None = nn.Parameter(weights[name])
        elif f"{name}.weight" in weights:
            (self.log_std,) = _linears(weights, name)
        elif name in weights:
            raise ValueError("it explores with gSDE (use_sde=True), which is not supported")
        else:
            self.log_std = None
        self.requires_grad_(False)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the mean and the log std of the Gaussian, before any squashing."""
        features = self.body(state)
        mean = self.mean(features)
        if isinstance(self.log_std, nn.Module):
            return mean, self.log_std(features).clamp(MIN_LOG_STD, MAX_LOG_STD)
        return mean, self.log_std


class SB3Teacher(Teacher):
    """Labels with an SB3 policy's action distribution."""

    def __init__(self, policy: SB3Policy, discrete: tuple[bool, ...], device: torch.device) -> None:
        """Wrap a policy for an action space whose `discrete` dimensions only mean their sign."""
        self.policy = policy.to(device).eval()
        self.discrete = torch.tensor(discrete, device=device)
        self.provides = frozenset({"mean"} if policy.log_std is None else {"mean", "std"})
        self.name = "sb3"

    def check_env(self, spec: EnvSpec) -> None:
        """An SB3 policy says nothing but the sizes that it reads and writes."""
        states = spec.observations["state"].shape[0] if "state" in spec.observations else 0
        for what, theirs, ours in (
            ("state entries", self.policy.state_dim, states),
            ("action dimensions", self.policy.mean.out_features, spec.action.dim),
        ):
            if theirs != ours:
                raise SpecMismatch(
                    f"teacher '{self.name}' does not fit environment: {what} differ: "
                    f"policy has {theirs}; environment ({spec.task}) has {ours}"
                )

    @torch.no_grad()
    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Return the mean action and, where the policy is stochastic, its standard deviation."""
        raw, log_std = self.policy(obs["state"])
        mean = torch.tanh(raw) if self.policy.squash else raw.clamp(-1, 1)
        valid = torch.ones(len(mean), dtype=torch.bool, device=mean.device)
        if log_std is None:
            return TeacherOutput(mean, valid)
        std = log_std.exp().expand_as(raw)
        # p(a > 0) = Phi(raw / std), so 2p - 1 = erf(raw / (sqrt(2) std)); squashing and clipping keep the sign
        mean = torch.where(self.discrete, torch.erf(raw / (math.sqrt(2) * std)), mean)
        if self.policy.squash:
            std = std * (1 - torch.tanh(raw).square())  # to first order, through the tanh
        return TeacherOutput(mean, valid, std=std)

    def weights(self) -> dict[str, Tensor]:
        """The actor's parameters."""
        return self.policy.state_dict()

    @property
    def device(self) -> torch.device:
        """Where the policy computes."""
        return self.discrete.device


def load(path: str | Path) -> SB3Policy:
    """Read the actor of a model saved by ``model.save(path)``.

    Raises:
        ConfigError: a missing or damaged file, or an unsupported policy.
    """
    try:
        with zipfile.ZipFile(path) as file:
            data: dict[str, Any] = json.loads(file.read("data"))
            weights = torch.load(io.BytesIO(file.read("policy.pth")), map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (zipfile.BadZipFile, KeyError, ValueError, RuntimeError, pickle.UnpicklingError, EOFError):
        raise ConfigError(f"{path}: not a model saved by stable-baselines3, or a damaged one") from None
    # SB3 writes options that are classes as text: "<class 'torch.nn.modules.activation.ReLU'>"
    named = re.search(r"(\w+)'>$", str((data.get("policy_kwargs") or {}).get("activation_fn", "")))
    if named and named[1] not in ACTIVATIONS:
        raise ConfigError(f"{path}: activation {named[1]} is not supported; supported: {', '.join(ACTIVATIONS)}")
    try:
        return SB3Policy(weights, ACTIVATIONS[named[1]] if named else None)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def from_string(argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device) -> SB3Teacher:
    """Build ``sb3:FILE.zip``; see `teachers.registry`."""
    if argument is None:
        raise ConfigError("teacher 'sb3' needs a file, e.g. sb3:model.zip")
    parse_options(Options, options, "sb3")
    return SB3Teacher(load(argument), spec.action.discrete, device)


def _linears(weights: dict[str, Tensor], prefix: str) -> list[nn.Linear]:
    """Return the linear layers under a prefix, in order: ``prefix.weight``, or ``prefix.0.weight``, ``prefix.2.weight``..."""
    pattern = re.compile(re.escape(prefix) + r"\.(?:(\d+)\.)?weight")
    found = sorted((int(m[1] or 0), m[0]) for m in map(pattern.fullmatch, weights) if m)
    layers = []
    for _, name in found:
        weight, bias = weights[name], weights[name.removesuffix("weight") + "bias"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    return layers
