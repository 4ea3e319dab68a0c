"""Load a policy by its reference: a trained student, an exported policy, a teacher, or a baseline."""

from __future__ import annotations

from pathlib import Path

import torch

from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec
from rpd.envs.vector_env import VectorEnv
from rpd.export import is_exported
from rpd.policies.base import Policy
from rpd.policies.builtin import RandomPolicy, StudentPolicy, ZeroPolicy
from rpd.students import loading
from rpd.students.diffusion.actor import DiffusionActor
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.students.io.policy_path import resolve_policy
from rpd.teachers.adapters.diffusion import DiffusionOptions
from rpd.teachers.adapters.student import PolicyTeacher, outside_base
from rpd.teachers.refs import PolicyRef, parse, trained_path
from rpd.teachers.registry import make, parse_options


def load_policy(
    ref: str | Path, env: VectorEnv | EnvSpec, sampler: str | None = None, device: torch.device | str | None = None
) -> Policy:
    """Load a policy by its reference, for an environment.

    Args:
        ref: policy reference (`rpd.teachers.refs`): a run, a checkpoint, a policy folder or an exported folder; a teacher;
            ``zero`` or ``random``.
        env: the environment, or its spec.
        sampler: sampler of a diffusion policy, see `rpd.students.diffusion.samplers`; None: its default.
        device: device of the policy; None: the environment's device, or the CPU for a spec.

    Returns:
        An object whose ``act(obs, instructions)`` returns actions [N, A] in [-1, 1] for N environments, see
        `rpd.policies.base.Policy`.

    Raises:
        ConfigError: no such policy, a damaged one, or a sampler for a policy that is not a diffusion policy.
        SpecMismatch: the policy was made for another environment; names both sides.
    """
    spec = env if isinstance(env, EnvSpec) else env.spec
    if device is None:
        device = "cpu" if isinstance(env, EnvSpec) else env.device
    parsed, path = parse(ref), trained_path(ref)
    if path is not None and not is_exported(path):
        return load(parsed, spec, torch.device(device), sampler)
    _no_sampler(parsed, sampler)
    if path is not None:
        from rpd.policies.exported import ExportedPolicy

        _no_options(parsed)
        return ExportedPolicy(path, spec)
    if parsed.is_teacher:
        return make(ref, spec, device)
    return ZeroPolicy(spec.action.dim) if parsed.family == "zero" else RandomPolicy(spec.action.dim)


def load(ref: PolicyRef, spec: EnvSpec, device: torch.device, sampler: str | None = None) -> Policy:
    """Load a trained policy of any type, for an environment.

    Args:
        ref: reference of a run, a checkpoint or a policy folder; a diffusion policy has the option ``sampler``.
        spec: spec of the environment.
        device: device of the policy.
        sampler: see `load_policy`.

    Raises:
        ConfigError: see `load_policy`.
        SpecMismatch: the policy was made for another environment; names both sides.
    """
    student = loading.load(resolve_policy(ref.argument or ""), device)
    student.adapt_to(spec)
    if isinstance(student, DiffusionPolicy):
        return DiffusionActor(student, _sampler(ref, sampler), ref.text)
    _no_sampler(ref, sampler)
    _no_options(ref)
    base = outside_base(student, spec, device)
    return StudentPolicy(student, ref.text) if base is None else PolicyTeacher(student, ref.text, base)


def _sampler(ref: PolicyRef, sampler: str | None) -> str | None:
    """Return the sampler of the reference, or else the given one."""
    if "sampler" in ref.options and sampler is not None:
        raise ConfigError(f"--sampler {sampler}: {ref.text} already sets a sampler: leave out one of the two")
    if "samples" in ref.options:
        raise ConfigError(f"{ref.text}: the option samples applies to teachers only: leave it out")
    return parse_options(DiffusionOptions, ref.options, ref.argument or "").sampler or sampler


def _no_sampler(ref: PolicyRef, sampler: str | None) -> None:
    if sampler is not None:
        raise ConfigError(f"--sampler {sampler}: {ref.text} is not a diffusion policy: leave it out")


def _no_options(ref: PolicyRef) -> None:
    if ref.options:
        raise ConfigError(f"{ref.text}: {ref.argument} has no options: leave out {', '.join(ref.options)}")
