"""Process of the policy."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from rpd import export
from rpd.config.deploy import STOP, CascadeConfig
from rpd.core.link import Link, LinkLost, parent
from rpd.deploy.cascade import Act, Cascade, Obs
from rpd.deploy.policy import refuse_baseline
from rpd.envs import user_files
from rpd.envs.errors import ConfigError, RunFault
from rpd.envs.specs import EnvSpec
from rpd.export.graph import with_state_entries
from rpd.policies.builtin import StudentPolicy
from rpd.policies.loading import load_policy
from rpd.students.training_range import TrainingRange, training_range
from rpd.teachers.adapters.student import PolicyTeacher
from rpd.teachers.refs import parse, trained_path


@dataclass(frozen=True)
class Loaded:
    """A loaded policy."""

    act: Act
    reset: Callable[[], None]
    """Reset the state of an episode."""
    spec: EnvSpec
    """Spec with the meaning of its actions."""
    value: Callable[[Obs], float] | None = None
    """Value of an observation, for policies with a value function."""
    training: TrainingRange | None = None
    """Range of the state entries in training, if known."""


def load(name: str, spec: EnvSpec) -> Loaded:
    """Load a policy for a robot's spec.

    Raises:
        ConfigError: the policy does not exist or does not fit.
    """
    refuse_baseline(parse(name))
    path = trained_path(name)
    if path is not None and export.is_exported(path):
        return _load_exported(path, spec)
    policy = load_policy(name, spec)

    def act(obs: Obs, instruction: str) -> np.ndarray:
        with torch.no_grad():
            return policy.act(_rows(obs), [instruction])[0].numpy()

    critic = None
    if path is not None and isinstance(policy, StudentPolicy | PolicyTeacher):
        critic = policy.student if isinstance(policy, StudentPolicy) else policy.policy

    def value(obs: Obs) -> float:
        assert critic is not None
        with torch.no_grad():
            return float(critic.value(_rows(obs))[0])

    policy.seed(0)
    own = None if critic is None else value
    training = None if critic is None else training_range(critic, spec)
    return Loaded(act, lambda: policy.reset(torch.ones(1, dtype=torch.bool)), spec, own, training)


def _load_exported(path: Path, spec: EnvSpec) -> Loaded:
    """Load an export; selects the state entries that it reads, and passes single frames, as it stacks frames itself."""
    exported = export.load(path)
    theirs = export.spec_of(path)
    with_state_entries(spec.stacked(1), theirs.state_names).check_policy(theirs)
    columns = [spec.state_names.index(name) for name in theirs.state_names]

    def act(obs: Obs, instruction: str) -> np.ndarray:
        newest = {key: obs[key][..., -theirs.observations[key].shape[-1] :] for key in theirs.cameras}
        return exported.act({"state": obs["state"][columns], **newest}, instruction)

    return Loaded(act, exported.reset, spec, training=exported.about.get("training"))


def assemble(name: str, spec: EnvSpec, config: CascadeConfig) -> tuple[Cascade, Callable[[], None], Loaded]:
    """Load a policy, with the ensemble and teacher of its cascade.

    Returns:
        The cascade, a function that resets all members, and the first policy.

    Raises:
        ConfigError: a member is missing or does not fit.
    """
    first, *others = (load(each, spec) for each in (name, *config.ensemble))
    asked = [] if config.ask is None or config.ask == STOP else [load(config.ask, spec)]
    for other in (*others, *asked):
        if other.spec.action != first.spec.action:
            raise ConfigError(f"cascade: actions mean different things: {first.spec.action}, and {other.spec.action}")

    def reset() -> None:
        for each in (first, *others, *asked):
            each.reset()

    teacher = asked[0].act if asked else None
    discrete = first.spec.action.discrete
    return Cascade(config, first.act, [other.act for other in others], first.value, teacher, discrete), reset, first


def _rows(obs: Obs) -> TensorDict:
    return TensorDict({k: torch.from_numpy(np.array(v))[None] for k, v in obs.items()}, batch_size=[1])


def serve(link: Link, act: Cascade, reset: Callable[[], None], delay: float) -> None:
    """Answer the latest query in a loop; with a delay, answer every query after the delay.

    Raises:
        LinkLost: the control loop is gone.
    """
    late: deque[tuple[float, dict[str, Any]]] = deque()
    while True:
        orders = link.take(late[0][0] if late else float("inf"))
        for order in orders:
            if order["do"] == "reset":
                late.clear()
                reset()
        asked = [order for order in orders if order["do"] == "act"]
        for order in asked if delay else asked[-1:]:  # older queries are obsolete
            began = time.monotonic()
            decision = act(order["obs"], order["instruction"])
            answer = {
                "tick": order["tick"], "action": np.asarray(decision.action, dtype=np.float64),
                "seconds": time.monotonic() - began, "who": decision.who, "spread": decision.spread, "value": decision.value,
            }  # fmt: skip
            late.append((began + delay, answer))
        while late and late[0][0] <= time.monotonic():
            link.send(late.popleft()[1])


def main(handle: int) -> None:
    """Run the policy of the first message; see `rpd.core.link.Child`."""
    torch.set_num_threads(1)
    link = parent(handle)
    with contextlib.suppress(LinkLost):
        order = link.take(float("inf"))[0]
        try:
            user_files.inherit()
            cascade = CascadeConfig.model_validate_json(order["cascade"])
            act, reset, first = assemble(order["policy"], EnvSpec.model_validate_json(order["spec"]), cascade)
        except (ConfigError, RunFault) as error:
            link.send({"error": str(error)})
            return
        link.send({"ready": True, "spec": first.spec.model_dump_json(), "training": first.training})
        try:
            serve(link, act, reset, order["delay"])
        except LinkLost:
            raise
        except Exception as error:  # the control loop reports any failure
            link.send({"error": f"{type(error).__name__}: {error}"})
