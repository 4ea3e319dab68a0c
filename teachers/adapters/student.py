"""Trained policies as teachers."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.errors import ConfigError
from rpd.envs.finite import check, clipped
from rpd.envs.specs import EnvSpec
from rpd.students.actor_critic import ActorCritic
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.students.identity import combine, short
from rpd.students.io import pretrained
from rpd.students.io.policy_path import resolve_policy
from rpd.students.loading import load
from rpd.students.residual import BASE_ACTION, BASE_FEATURES
from rpd.teachers import inputs, registry
from rpd.teachers.adapters.diffusion import DiffusionOptions, DiffusionTeacher
from rpd.teachers.base import CameraRequest, Description, Input, Teacher, TeacherOutput
from rpd.teachers.refs import addresses, parse
from rpd.teachers.registry import Options, parse_options
from rpd.teachers.transport import TOKEN_SERVERS, TOKEN_VARIABLE
from rpd.teachers.vla.action_table import describe_own_actions

LOG = logging.getLogger(__name__)


def teacher_action(teacher: Teacher, obs: TensorDict, instructions: list[str]) -> Tensor:
    """Return a teacher's actions [N, A], clipped to [-1, 1], on the device of the observations [N].

    Args:
        teacher: the teacher, on any device.
        obs: [N] observations, including its cameras.
        instructions: N strings.
    """
    return clipped(teacher.act(obs.to(teacher.device), instructions)).to(obs.device or "cpu")


def base_of(path: str | Path) -> str | None:
    """Return the name of the teacher that a trained policy corrects; None if it corrects none.

    Raises:
        ConfigError: the policy does not exist or is damaged, or see `_trusted`.
    """
    base = pretrained.describe(resolve_policy(path)).base
    return _trusted(base) if isinstance(base, str) else None


def outside_base(policy: ActorCritic, spec: EnvSpec, device: torch.device, named: str | None = None) -> Teacher | None:
    """Build the teacher that a policy corrects (`ActorCritic.outside`); None if it corrects none.

    Args:
        policy: the policy.
        spec: the environment.
        device: device of the teacher.
        named: the base in the user's configuration; the access token is sent only to a server that is named there.

    Raises:
        ConfigError: see `rpd.teachers.registry.make` and `_trusted`; or the teacher's files have changed since the policy
            was trained.
    """
    if policy.outside is None:
        return None
    name = _trusted(policy.outside)
    name = policy.outside if policy.outside == named else name
    recorded, now = policy.outside_identity, registry.identity(name)
    if recorded and now and recorded != now:
        raise ConfigError(
            f"the policy corrects teacher {policy.outside} with files of digest {short(recorded)}, which have changed "
            f"({short(now)}): restore them"
        )
    return registry.make(name, spec, device)


class PolicyTeacher(Teacher):
    """Trained policy, with the teacher that it corrects (`ActorCritic.outside`), if any.

    Labels are the policy's action distribution.
    """

    output_fields = frozenset({"mean", "std"})

    def __init__(self, policy: ActorCritic, name: str = "policy", base: Teacher | None = None) -> None:
        """Freeze a policy; `base` is the teacher that it corrects."""
        self.policy = policy.eval().requires_grad_(False)
        self.name, self.base = name, base
        self.needs_teacher_images = base is not None and base.needs_teacher_images
        self.is_stateful = base is not None and (base.is_stateful or base.has_memory)  # to label, the base acts
        if base is not None:
            self.rows_at_once = min(self.rows_at_once, base.rows_at_once)

    @property
    def reads_observations(self) -> bool:
        """True: the policy reads its own observations, also if the base reads camera images."""
        return True

    @property
    def has_memory(self) -> bool:
        """Whether the base has memory."""
        return self.base is not None and self.base.has_memory

    def reset(self, mask: Tensor) -> None:
        """See `Teacher.reset`."""
        if self.base is not None:
            self.base.reset(mask)

    def seed(self, seed: int) -> None:
        """See `Teacher.seed`."""
        if self.base is not None:
            self.base.seed(seed)

    def new_session(self) -> PolicyTeacher | None:
        """See `Teacher.new_session`."""
        if self.base is None:
            return self
        base = self.base.new_session()
        if base is None:
            return None
        base.name, base.space = self.base.name, self.base.space
        return PolicyTeacher(self.policy, self.name, base)

    def close(self) -> None:
        """Close the session of the base."""
        if self.base is not None:
            self.base.close()

    def check_env(self, spec: EnvSpec) -> None:
        """Check the policy (see `ActorCritic.adapt_to`) and its base."""
        self.policy.adapt_to(spec)
        if self.base is not None:
            self.base.check_env(spec)

    def check_instructions(self, instructions: Iterable[str]) -> None:
        """See `Teacher.check_instructions`: only the base reads instructions."""
        if self.base is not None:
            self.base.check_instructions(instructions)

    @torch.no_grad()
    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Return the mean [N, A] of the policy's distribution, clipped to [-1, 1], and its standard deviation [N, A]."""
        distribution = self.policy.distribution(self._with_base(obs, instructions))
        mean = clipped(distribution.mean)
        return TeacherOutput(mean, valid=mean.new_ones(len(mean), dtype=torch.bool), std=distribution.std)

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return the policy's deterministic actions [N, A]: the mode, -1 or +1 in discrete dimensions.

        Raises:
            NonFiniteError: an action of the base is not finite; names the base.
        """
        shown = self._with_base(obs, instructions)
        if self.base is not None:
            check({BASE_ACTION: shown[BASE_ACTION]}, f"base {self.base.name}")
        return self.policy.act(shown)

    def _with_base(self, obs: TensorDict, instructions: list[str]) -> TensorDict:
        """Return the policy's observations [N]: with the action of its own base, without that of another policy."""
        own = obs.exclude(BASE_ACTION, BASE_FEATURES)
        return own if self.base is None else own.set(BASE_ACTION, teacher_action(self.base, obs, instructions))

    def state_dict(self) -> dict[str, Tensor]:
        """See `Teacher.state_dict`."""
        return {} if self.base is None else self.base.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See `Teacher.load_state_dict`."""
        if self.base is not None:
            self.base.load_state_dict(state)

    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers of the policy."""
        return self.policy.state_dict()

    @property
    def device(self) -> torch.device:
        """Device of the policy."""
        return self.policy.device


def from_string(
    argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device
) -> PolicyTeacher | DiffusionTeacher:
    """Build the teacher of a path; see `rpd.teachers.registry`.

    Raises:
        ConfigError: the policy does not exist or is damaged.
    """
    return frozen(str(argument), spec, device, options)


def frozen(
    path: str | Path, spec: EnvSpec | None, device: torch.device | str, options: dict[str, str] | None = None
) -> PolicyTeacher | DiffusionTeacher:
    """Load a policy of any kind as a teacher.

    Args:
        path: a run, a checkpoint or a policy folder; also the teacher's name.
        spec: the environment; None: the environment of the policy.
        device: device of the teacher.
        options: options of a diffusion policy, see `DiffusionOptions`; other policies have none.

    Raises:
        ConfigError: the policy does not exist or is damaged, or an option is invalid.
    """
    policy, name = load(resolve_policy(path), device), str(path)
    if isinstance(policy, DiffusionPolicy):
        return DiffusionTeacher(policy, name, parse_options(DiffusionOptions, options or {}, name))
    parse_options(Options, options or {}, name)
    base = outside_base(policy, policy.spec if spec is None else spec, torch.device(device))
    return PolicyTeacher(policy, name, base)


def camera_request(argument: str | None, options: dict[str, str]) -> CameraRequest:
    """Return the cameras that the base needs; none without a base."""
    base = None if argument is None else base_of(argument)
    return CameraRequest() if base is None else registry.camera_request(base)


def identity(argument: str | None, options: dict[str, str]) -> str | None:
    """Return the digest of a trained policy and its base; None if the base has no digest.

    Raises:
        ConfigError: the policy does not exist or is damaged.
    """
    path = str(argument)
    own, base = pretrained.identity(resolve_policy(path)), base_of(path)
    if base is None:
        return own
    other = registry.identity(base)
    return None if other is None else combine(own, other)


def describe(argument: str | None, options: dict[str, str], spec: EnvSpec, instruction: str) -> Description:
    """See `rpd.teachers.registry.describe`.

    Raises:
        ConfigError, SpecMismatch: see `from_string` and `check_env`.
    """
    teacher = from_string(argument, options, spec, torch.device("cpu"))
    trained_for = teacher.policy.spec
    teacher.check_env(spec)
    policy = teacher.policy
    config = policy.student if isinstance(policy, DiffusionPolicy) else policy.config
    facts = {
        "kind": type(policy).__name__,
        "parameters": f"{sum(p.numel() for p in policy.parameters()):,}",
        "trained for": f"{trained_for.task} · {trained_for.embodiment.name}, {trained_for.control_hz:g} Hz",
        "output fields": ", ".join(sorted(teacher.output_fields)),
    }
    how = "whitened with the statistics in the policy" if config.normalize_state else "as they are"
    if isinstance(policy, DiffusionPolicy) and isinstance(teacher, DiffusionTeacher):
        how += f", the last {policy.config.n_obs_steps} steps"
        facts["as a policy"] = f"executes chunks of {policy.config.horizon} actions, sampler {teacher.actor.sampler.name}"
    given = inputs.observed(trained_for, trained_for.entries(config.state_keys), how)
    if isinstance(teacher, PolicyTeacher) and teacher.base is not None:
        given.append(Input(BASE_ACTION, f"teacher {teacher.base.name}", f"{spec.action.dim} numbers, its action"))
    return describe_own_actions(facts, given, spec, str(argument), policy.rescale.tolist())


def _trusted(base: str) -> str:
    """Return the name of a base that a policy folder gives, with a warning if the base is not part of the folder.

    Policy folders may come from strangers: a server that only the policy names gets no token, unless the environment
    variable `TOKEN_SERVERS` lists it.

    Raises:
        ConfigError: the base would send the content of a local file, or a token, to a server.
    """
    ref = parse(base)
    _check_sent(base, ref.options)
    _warn(base, ref.family, ref.argument)
    listed = [address.strip() for address in os.environ.get(TOKEN_SERVERS, "").split(",")]
    trusted = ref.family != "remote" or all(address in listed for address in addresses(ref.argument or ""))
    return base if trusted else f"{base},token=withheld"


def _check_sent(base: str, options: dict[str, str]) -> None:
    if secret := sorted({"token_file", "token"} & options.keys()):
        raise ConfigError(
            f"the policy's base {base}: {secret[0]}: a policy may not name a file that is sent to a server, nor decide about "
            f"tokens: name the base without it, and put the token into the environment variable {TOKEN_VARIABLE}"
        )


@functools.cache  # one warning per base
def _warn(base: str, family: str | None, argument: str | None) -> None:
    if argument is not None:
        what = "observations go to its server" if family == "remote" else "loaded from there"
        LOG.warning(f"the policy corrects teacher {base}, which is not part of it: {what}")
