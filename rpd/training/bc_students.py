"""Student types of behavior cloning: batches from demonstrations, loss and evaluation policy of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, cast

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from rpd.algorithms.augmentation import augmentation
from rpd.algorithms.behavior_cloning import demonstration_loss
from rpd.algorithms.state_estimation import PerceptionLearner
from rpd.config.schema import RunConfig
from rpd.core.distributed import World
from rpd.datasets.action_chunks import ChunkSource
from rpd.datasets.behavior_cloning import DemoSource
from rpd.envs.errors import ConfigError
from rpd.envs.vector_env import VectorEnv
from rpd.policies.base import Policy
from rpd.policies.builtin import StudentPolicy
from rpd.rollout.batch import joined
from rpd.students.actor_critic import ActorCritic
from rpd.students.diffusion import samplers
from rpd.students.diffusion.actor import DiffusionActor
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.students.io.pretrained import PretrainedPolicy
from rpd.students.row_share import RowShare
from rpd.training.builders import make_policy

BATCHES_PER_ITERATION = 20
"""Gradient steps per iteration; their mean loss is one log entry."""


class Generators(NamedTuple):
    """Random generators of a rank."""

    shared: torch.Generator
    """In the same state on all ranks."""
    own: torch.Generator
    """Of this rank alone."""


class BCStudent(ABC):
    """A network and its source of demonstrations.

    Attributes:
        policy: the network in training.
        shared: submodules that are not trained by `loss`; excluded from the weight average.
    """

    policy: PretrainedPolicy
    shared: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters trained by `loss`."""

    @abstractmethod
    def draw(self, share: RowShare) -> TensorDict:
        """Draw this rank's rows [count] of a batch of demonstrations, with ``obs`` and ``actions``."""

    @abstractmethod
    def loss(self, batch: TensorDict, share: RowShare) -> Tensor:
        """Return the mean loss of this rank's rows, a scalar."""

    @abstractmethod
    def actor(self, network: PretrainedPolicy) -> Policy:
        """Return a policy that acts with a network of this kind."""

    def end_iteration(self, progress: float) -> dict[str, float]:
        """Train the other modules on the batches of an iteration that ends at `progress` in [0, 1]; returns metrics."""
        del progress
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state besides the network and the optimizer that the ranks share."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the result of `state_dict`."""
        del state

    def own_state_dict(self) -> dict[str, Tensor]:
        """Return the state of this rank."""
        return {}

    def load_own_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the result of `own_state_dict`."""
        del state


class ActorCriticStudent(BCStudent):
    """Actor-critic student: regression of the actor on recorded actions. Critic and standard deviation are not trained.

    A new student normalizes states with the statistics of all rows; with ``pretrained_path`` it keeps the statistics of that
    policy. With `StudentConfig.state_estimator` the actor reads scene estimates, and the estimator trains on recorded scenes
    after each iteration.

    Raises:
        ConfigError: see `make_policy` and `DemoSource`; or ``bc.sampler`` is set.
    """

    shared = ("state_estimator",)
    policy: ActorCritic

    def __init__(
        self, config: RunConfig, env: VectorEnv, generators: Generators, saved: PretrainedPolicy | None, world: World
    ) -> None:
        if config.bc.sampler is not None:
            raise ConfigError("bc.sampler applies to diffusion policies: leave it out, or use --student diffusion")
        if saved is None:
            self.policy = make_policy(config, env)
        else:
            self.policy = cast("ActorCritic", saved)
            self.policy.adapt_to(env.spec)
        self.source = DemoSource(config.demos, env.spec, self.policy.config, generators.shared, config.bc.intervention_fraction)
        if saved is None and config.pretrained_path is None:
            self.policy.update_normalization({"state": self.source.states.to(self.policy.device)})
        self.kind = config.bc.loss
        self.state_estimator: PerceptionLearner | None = None
        if self.policy.config.state_estimator:
            self.state_estimator = PerceptionLearner(self.policy, config.state_estimator, generators.own, world)
        self.augment = None if self.state_estimator is not None else augmentation(self.policy, generators.own)
        self._drawn: list[TensorDict] = []  # observations of this iteration, for the state estimator

    def parameters(self) -> list[nn.Parameter]:
        """See `BCStudent.parameters`."""
        return self.policy.policy_parameters()

    def draw(self, share: RowShare) -> TensorDict:
        """Draw single steps: ``obs`` [count, ...], ``actions`` [count, A]."""
        batch = self.source.draw(share)
        if self.state_estimator is not None:
            self._drawn.append(batch["obs"])
            with torch.no_grad():
                batch["obs"] = self.policy.augment_obs(batch["obs"]).exclude(*self.policy.spec.cameras)
        elif self.augment is not None:
            batch["obs"] = self.augment(batch["obs"])
        return batch

    def loss(self, batch: TensorDict, share: RowShare) -> Tensor:
        """See `rpd.algorithms.behavior_cloning.demonstration_loss`."""
        return demonstration_loss(self.policy.distribution(batch["obs"]), batch["actions"], self.kind)

    def actor(self, network: PretrainedPolicy) -> Policy:
        """See `BCStudent.actor`."""
        return StudentPolicy(cast("ActorCritic", network))

    def end_iteration(self, progress: float) -> dict[str, float]:
        """Update the state estimator."""
        if self.state_estimator is None:
            return {}
        obs = joined(self._drawn)
        self._drawn.clear()
        return self.state_estimator.update(obs, progress)

    def state_dict(self) -> dict[str, Tensor]:
        """See `BCStudent.state_dict`."""
        return {} if self.state_estimator is None else self.state_estimator.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See `BCStudent.load_state_dict`."""
        if self.state_estimator is not None:
            self.state_estimator.load_state_dict(state)

    def own_state_dict(self) -> dict[str, Tensor]:
        """See `BCStudent.own_state_dict`."""
        return {} if self.state_estimator is None else self.state_estimator.own_state_dict()

    def load_own_state_dict(self, state: dict[str, Tensor]) -> None:
        """See `BCStudent.load_own_state_dict`."""
        if self.state_estimator is not None:
            self.state_estimator.load_own_state_dict(state)


class DiffusionStudent(BCStudent):
    """Diffusion student: denoising error on action chunks.

    Raises:
        ConfigError: see `DiffusionPolicy` and `DemoSource`; an option of actor-critic students is set; or the sampler does not
            fit the diffusion process.
    """

    policy: DiffusionPolicy

    def __init__(
        self, config: RunConfig, env: VectorEnv, generators: Generators, saved: PretrainedPolicy | None, world: World
    ) -> None:
        del world
        if config.pretrained_path is not None or config.base is not None:
            raise ConfigError("student.type diffusion starts from random weights: leave out --pretrained-path and the base")
        if config.bc.loss != "nll":
            raise ConfigError("bc.loss applies to actor-critic students: student.type diffusion trains on its denoising error")
        self.policy = DiffusionPolicy(env.spec, config.student, config.diffusion).to(env.device)
        source = DemoSource(config.demos, env.spec, config.student, generators.shared, config.bc.intervention_fraction)
        self.data = ChunkSource(source, config.diffusion.n_obs_steps, config.diffusion.horizon)
        self.generator, self.sampler = generators.shared, config.bc.sampler
        if saved is None:
            self.policy.prepare(source.states.to(env.device), self.data.actions.to(env.device))
        else:  # normalization; the trainer restores the weights in training later
            self.policy.load_state_dict(saved.state_dict())
        samplers.make(self.sampler, self.policy)  # raises an error if it does not fit

    def parameters(self) -> list[nn.Parameter]:
        """See `BCStudent.parameters`."""
        return list(self.policy.parameters())

    def draw(self, share: RowShare) -> TensorDict:
        """Draw windows of ``obs`` [count, n_obs, ...] with chunks of ``actions`` [count, H, A]."""
        return self.data.draw(share)

    def loss(self, batch: TensorDict, share: RowShare) -> Tensor:
        """See `DiffusionPolicy.loss`."""
        return self.policy.loss(self.policy.encode_window(batch["obs"]), batch["actions"], self.generator, share)

    def actor(self, network: PretrainedPolicy) -> Policy:
        """See `BCStudent.actor`."""
        return DiffusionActor(cast("DiffusionPolicy", network), self.sampler)


STUDENTS: dict[str, type[ActorCriticStudent] | type[DiffusionStudent]] = {
    "actor-critic": ActorCriticStudent,
    "diffusion": DiffusionStudent,
}
"""Student class by `StudentConfig.type`."""
