"""Use a stable-baselines3 policy on vector states as a teacher: PPO, A2C, SAC, TD3 and DDPG with MLPs; also TRPO and TQC.

Needs neither stable-baselines3 nor pickle: the ``.zip`` contains ``policy.pth``, which is read with ``weights_only``, and the
network is derived from names and shapes of its tensors, each of which must be used or belong to a critic. VecNormalize
statistics are read from their own file, see `rpd.teachers.adapters.sb3_normalize`.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.envs.specs import EnvSpec
from rpd.students.identity import combine, file_identity
from rpd.students.networks.distribution import executed
from rpd.teachers import inputs
from rpd.teachers.adapters import sb3_files, sb3_normalize
from rpd.teachers.adapters.sb3_policy import SB3Policy
from rpd.teachers.base import Description, Teacher, TeacherOutput
from rpd.teachers.registry import Options, parse_options
from rpd.teachers.vla.action_table import describe_own_actions


class SB3Options(Options):
    """Options of ``sb3:FILE.zip``."""

    normalize: str | None = None
    """File written by VecNormalize.save, or none; default: vecnormalize.pkl in the model's folder, if it exists."""


class SB3Teacher(Teacher):
    """Labels with an SB3 policy's action distribution."""

    def __init__(self, policy: SB3Policy, discrete: tuple[bool, ...], device: torch.device) -> None:
        """Wrap a policy for an action space; `discrete` dimensions use the sign of the action."""
        self.policy = policy.to(device).eval()
        self.discrete = torch.tensor(discrete, device=device)
        self.output_fields = frozenset({"mean"} if policy.log_std is None else {"mean", "std"})
        self.name = "sb3"

    def check_env(self, spec: EnvSpec) -> None:
        """Refuse an environment with other sizes of state or action; SB3 policies store nothing else."""
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
        """Return the mean action and, if the policy is stochastic, its standard deviation."""
        raw, log_std = self.policy(obs["state"])
        mean = torch.tanh(raw) if self.policy.squash else raw.clamp(-1, 1)
        valid = torch.ones(len(mean), dtype=torch.bool, device=mean.device)
        if log_std is None:
            return TeacherOutput(mean, valid)
        std = log_std.exp().expand_as(raw)
        # p(a > 0) = Phi(raw / std), so 2p - 1 = erf(raw / (sqrt(2) std)); squashing and clipping keep the sign
        mean = torch.where(self.discrete, torch.erf(raw / (math.sqrt(2) * std)), mean)
        if self.policy.squash:
            std = std * (1 - torch.tanh(raw).square())  # first-order propagation through the tanh
        return TeacherOutput(mean, valid, std=std)

    @torch.no_grad()
    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return the deterministic prediction [N, A], with -1 or +1 in discrete dimensions."""
        raw, _ = self.policy(obs["state"])
        return executed(torch.tanh(raw) if self.policy.squash else raw, self.discrete)

    def weights(self) -> dict[str, Tensor]:
        """The actor's parameters."""
        return self.policy.state_dict()

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.discrete.device


def load(path: str | Path, normalize: str | None = None) -> SB3Policy:
    """Read the actor of a model saved by ``model.save(path)``.

    Args:
        path: the zip.
        normalize: see `SB3Options`.

    Raises:
        ConfigError: a missing or damaged file, an unsupported policy, or statistics that are missing or do not fit.
    """
    saved = sb3_files.read(Path(path))
    file = _statistics(Path(path), saved.normalized, normalize)
    normalizer = None if file is None else sb3_normalize.load(file)
    try:
        policy = SB3Policy(saved.weights, getattr(nn, saved.activation) if saved.activation else None, normalizer)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if normalizer is not None and len(normalizer.mean) != policy.state_dim:
        raise ConfigError(f"{file} has statistics of {len(normalizer.mean)} entries, and {path} reads {policy.state_dim}")
    return policy


def _statistics(model: Path, normalized: bool | None, asked: str | None) -> Path | None:
    """File with the VecNormalize statistics; None: not normalized.

    Raises:
        ConfigError: the model, the files next to it and the option are ambiguous or contradict each other.
    """
    if asked is not None:
        if asked == "none" and normalized:
            raise ConfigError(f"{model} was trained behind VecNormalize: normalize=none would change its inputs")
        return None if asked == "none" else Path(asked)
    found = sb3_normalize.find(model)
    how = "normalize=FILE, as written by VecNormalize.save, or normalize=none"
    if normalized is False and found:
        raise ConfigError(f"{model} was trained without VecNormalize, but {found[0]} exists: add {how}")
    if len(found) > 1:
        raise ConfigError(f"{model}: {' and '.join(map(str, found))} may be its statistics: add normalize=FILE")
    if found or normalized is False:
        return found[0] if found else None
    if normalized:
        raise ConfigError(
            f"{model} was trained behind VecNormalize, and its statistics are in another file: add normalize=FILE, as "
            "written by VecNormalize.save"
        )
    raise ConfigError(f"{model} does not store whether it was trained behind VecNormalize: add {how}")


def from_string(argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device) -> SB3Teacher:
    """Build ``sb3:FILE.zip``; see `rpd.teachers.registry`."""
    if argument is None:
        raise ConfigError("teacher 'sb3' needs a file, e.g. sb3:model.zip")
    chosen = parse_options(SB3Options, options, "sb3")
    return SB3Teacher(load(argument, chosen.normalize), spec.action.discrete, device)


def identity(argument: str | None, options: dict[str, str]) -> str:
    """See `rpd.teachers.registry.identity`: digest of the policy and its statistics."""
    if argument is None:
        raise ConfigError("teacher 'sb3' needs a file, e.g. sb3:model.zip")
    if not Path(argument).is_file():
        raise ConfigError(f"teacher sb3:{argument}: no such file")
    return combine([file_identity(path) for path in (Path(argument), *sb3_normalize.find(Path(argument)))])


def describe(argument: str | None, options: dict[str, str], spec: EnvSpec, instruction: str) -> Description:
    """See `rpd.teachers.registry.describe`.

    Raises:
        ConfigError, SpecMismatch: see `from_string` and `SB3Teacher.check_env`.
    """
    teacher = from_string(argument, options, spec, torch.device("cpu"))
    teacher.check_env(spec)
    layers = [str(m.out_features) for m in (*teacher.policy.body, teacher.policy.mean) if isinstance(m, nn.Linear)]
    facts = {
        "policy": "squashed by tanh, as of SAC, TD3 and DDPG" if teacher.policy.squash else "clipped, as of PPO and A2C",
        "layers": " ".join(layers),
        "output fields": ", ".join(sorted(teacher.output_fields)),
        "assumed": "this environment's state entries and actions: the file holds no names or units, only their number",
    }
    given = [inputs.state("state", spec.state_names, _shown(teacher.policy))]
    return describe_own_actions(facts, given, spec, f"sb3:{argument}")


def _shown(policy: SB3Policy) -> str:
    """Processing of the state, as text."""
    if policy.normalizer is None:
        return "unchanged"
    return f"normalized by the statistics of VecNormalize, clipped to ±{policy.normalizer.limit:g}"
