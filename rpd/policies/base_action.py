"""Environment wrapper that adds the action of a frozen base to each observation, for training residual policies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.vector_env import Step, VectorEnv
from rpd.students.actor_critic import ActorCritic
from rpd.students.residual import BASE_ACTION, BASE_FEATURES, ResidualActorCritic, base_outputs
from rpd.teachers.adapters.student import outside_base, teacher_action
from rpd.teachers.base import Teacher
from rpd.teachers.observation import teacher_observation

PREFIX, TEACHER = "base.", "base.teacher."
"""Key prefixes in `BaseActionWrapper.state_dict`: of the wrapper's state, and of the teacher's state within it."""


class BaseActionWrapper(VectorEnv):
    """Adds ``base_action`` [N, A] in [-1, 1], and optionally ``base_features`` [N, F], to each observation.

    The base computes once per observation: on reset, and after each step. Observations in `Step.final_obs` are left
    unchanged: only the critic reads them, and it does not use the base.

    Attributes:
        base: the frozen policy: a teacher, or a trained policy.
        queries: number of observations with a base action that the environment has stepped from.
    """

    def __init__(self, env: VectorEnv, base: Teacher | ActorCritic, features: bool = False) -> None:
        """Wrap an environment.

        Args:
            env: the environment.
            base: the frozen policy; a trained policy acts deterministically.
            features: add ``base_features``, the last hidden layer of a trained policy.
        """
        self.env, self.base, self.features = env, base, features
        self.num_envs, self.device, self.spec, self.exact_resume = env.num_envs, env.device, env.spec, env.exact_resume
        source = f"base {base.name}" if isinstance(base, Teacher) else "base"
        self.added_keys = dict.fromkeys((BASE_ACTION, BASE_FEATURES) if features else (BASE_ACTION,), source)
        self.queries = 0
        self._newest: dict[str, Tensor] = {}  # the added keys of the newest observation
        self._images: dict[str, Tensor] | None = None  # teacher-only images of the newest observation, once rendered

    @property
    def instructions(self) -> list[str]:
        """See `VectorEnv.instructions`."""
        return self.env.instructions

    def seed(self, seed: int) -> None:
        """Seed the base. `reset` does not seed it, so that its random numbers continue over several batches of episodes."""
        if isinstance(self.base, Teacher):
            self.base.seed(seed)

    def reset(self, seed: int, random_start_length: bool = False) -> TensorDict:
        """See `VectorEnv.reset`."""
        obs = self.env.reset(seed, random_start_length)
        self._reset_base(torch.ones(self.num_envs, dtype=torch.bool))
        return self._with_base(obs)

    def step(self, action: Tensor) -> Step:
        """See `VectorEnv.step`."""
        self.queries += self.num_envs
        step = self.env.step(action)
        if step.episode is not None:
            self._reset_base(step.terminated | step.truncated)
        return replace(step, obs=self._with_base(step.obs))

    def teacher_images(self, envs: Tensor | None = None) -> dict[str, Tensor]:
        """See `VectorEnv.teacher_images`; the images of all environments are rendered once per observation."""
        if self._images is None and envs is not None:
            return self.env.teacher_images(envs)
        if self._images is None:
            self._images = self.env.teacher_images()
        return {key: image if envs is None else image[envs] for key, image in self._images.items()}

    def render(self, envs: list[int] | None = None, size: int = 256) -> Tensor:
        """See `VectorEnv.render`."""
        return self.env.render(envs, size)

    def state_dict(self) -> dict[str, Tensor]:
        """See `VectorEnv.state_dict`; includes the base's state and its outputs for the newest observation."""
        teacher = self.base.state_dict() if isinstance(self.base, Teacher) else {}
        return {
            **self.env.state_dict(),
            **{TEACHER + name: tensor for name, tensor in teacher.items()},
            **{PREFIX + key: tensor.cpu() for key, tensor in self._newest.items()},
            PREFIX + "queries": torch.tensor(self.queries),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> TensorDict:
        """See `VectorEnv.load_state_dict`. The base does not compute again: its random numbers continue as saved."""
        obs = self.env.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)})
        if isinstance(self.base, Teacher):
            self.base.load_state_dict({n.removeprefix(TEACHER): tensor for n, tensor in state.items() if n.startswith(TEACHER)})
        self.queries = int(state[PREFIX + "queries"])
        self._newest = {key: state[PREFIX + key].to(self.device) for key in self.added_keys}
        self._images = None
        return obs.copy().update(self._newest)

    def close(self) -> None:
        """See `VectorEnv.close`."""
        self.env.close()

    @contextmanager
    def session(self, env: VectorEnv, seed: int) -> Iterator[BaseActionWrapper]:
        """Wrap another environment with a session of the base; on exit, restore the base's earlier state.

        Args:
            env: the environment, e.g. the evaluation environment.
            seed: seed of the session's random numbers.
        """
        if not isinstance(self.base, Teacher):
            yield BaseActionWrapper(env, self.base, self.features)
            return
        state = {name: tensor.clone() for name, tensor in self.base.state_dict().items()}
        session = self.base.new_session() or self.base
        session.name, session.space = self.base.name, self.base.space
        wrapped = BaseActionWrapper(env, session, self.features)
        wrapped.seed(seed)
        try:
            yield wrapped
        finally:
            self.base.load_state_dict(state)
            if session is not self.base:
                session.close()

    def _reset_base(self, mask: Tensor) -> None:
        if isinstance(self.base, Teacher):
            self.base.reset(mask.to(self.base.device))

    @torch.no_grad()
    def _with_base(self, obs: TensorDict) -> TensorDict:
        """Return a copy of the newest observation [N] with the added keys."""
        self._images = None
        if isinstance(self.base, Teacher):
            seen = teacher_observation(self, obs, self.base)
            self._newest = {BASE_ACTION: teacher_action(self.base, seen, self.instructions)}
        else:
            self._newest = base_outputs(self.base, obs, self.features)
        return obs.copy().update(self._newest)


def with_base(env: VectorEnv, policy: ActorCritic, seed: int, named: str | None = None) -> VectorEnv:
    """Wrap the environment of a residual policy with its base; return it unchanged for any other policy.

    Args:
        env: the environment.
        policy: the policy in training.
        seed: seed of the base.
        named: teacher given by the user as the base, see `outside_base`.

    Raises:
        ConfigError: see `outside_base`.
    """
    if not isinstance(policy, ResidualActorCritic):
        return env
    base = policy.base if policy.base is not None else outside_base(policy, env.spec, env.device, named)
    assert base is not None, "a residual policy has an internal or external base"
    wrapped = BaseActionWrapper(env, base, policy.residual.base_input == "features")
    wrapped.seed(seed)
    return wrapped


@contextmanager
def evaluation_env(training_env: VectorEnv, env: VectorEnv, seed: int) -> Iterator[VectorEnv]:
    """Wrap an evaluation environment as the training environment is wrapped, see `BaseActionWrapper.session`."""
    if not isinstance(training_env, BaseActionWrapper):
        yield env
        return
    with training_env.session(env, seed) as wrapped:
        yield wrapped
