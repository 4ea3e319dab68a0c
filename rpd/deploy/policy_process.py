"""The policy's own process."""

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

from envs.errors import ConfigError, RunFault
from envs.specs import EnvSpec
from rpd import export, policies
from rpd.deploy.cascade import STOP, Act, Cascade, CascadeConfig, Obs
from rpd.deploy.link import Link, LinkLost, parent
from rpd.deploy.policy import teacher_of
from rpd.policies import Policy, StudentPolicy, trained
from teachers import registry as teachers


@dataclass(frozen=True)
class Loaded:
    """A policy that is ready."""

    act: Act
    reset: Callable[[], None]
    """Forget an episode."""
    spec: EnvSpec
    """What its actions mean."""
    value: Callable[[Obs], float] | None = None
    """Of an observation, for those that have one."""


def load(name: str, spec: EnvSpec) -> Loaded:
    """Load a policy for what a robot offers.

    Raises:
        ConfigError: no such policy, or it does not fit.
    """
    teacher = teacher_of(name)
    path = trained(name) if teacher is None else None
    if path is not None and export.is_exported(path):
        exported = export.load(path)
        made_for = EnvSpec.model_validate(exported.spec)
        spec.check_policy(made_for)
        return Loaded(exported.act, exported.reset, made_for)
    cpu = torch.device("cpu")
    policy: Policy = teachers.make(teacher, spec, cpu) if teacher is not None else policies.load(Path(name), name, spec, cpu)

    def act(obs: Obs, instruction: str) -> np.ndarray:
        with torch.no_grad():
            return policy.act(_rows(obs), [instruction])[0].numpy()

    def value(obs: Obs) -> float:
        assert isinstance(policy, StudentPolicy)
        with torch.no_grad():
            return float(policy.student.value(_rows(obs))[0])

    policy.seed(0)
    own = value if isinstance(policy, StudentPolicy) else None
    return Loaded(act, lambda: policy.reset(torch.ones(1, dtype=torch.bool)), spec, own)


def assemble(name: str, spec: EnvSpec, config: CascadeConfig) -> tuple[Cascade, Callable[[], None], EnvSpec]:
    """Load a policy, and whomever it is compared with or may ask.

    Returns:
        How they act together, how all forget an episode, and what their actions mean.

    Raises:
        ConfigError: one of them is missing, or does not fit.
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
    return Cascade(config, first.act, [other.act for other in others], first.value, teacher, discrete), reset, first.spec


def _rows(obs: Obs) -> TensorDict:
    return TensorDict({k: torch.from_numpy(np.array(v))[None] for k, v in obs.items()}, batch_size=[1])


def serve(link: Link, act: Cascade, reset: Callable[[], None], delay: float) -> None:
    """Answer the newest question, again and again; with a delay, every question, each so much later.

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
        for order in asked if delay else asked[-1:]:  # one that has been overtaken is of no use
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
    """Be the policy of the first message; see `rpd.deploy.link.Child`."""
    torch.set_num_threads(1)
    link = parent(handle)
    with contextlib.suppress(LinkLost):
        order = link.take(float("inf"))[0]
        try:
            cascade = CascadeConfig.model_validate_json(order["cascade"])
            act, reset, spec = assemble(order["policy"], EnvSpec.model_validate_json(order["spec"]), cascade)
        except (ConfigError, RunFault) as error:
            link.send({"error": str(error)})
            return
        link.send({"ready": True, "spec": spec.model_dump_json()})
        try:
            serve(link, act, reset, order["delay"])
        except LinkLost:
            raise
        except Exception as error:  # whatever it is, the control loop has to know
            link.send({"error": f"{type(error).__name__}: {error}"})
