"""The policy's own process."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from envs.errors import ConfigError, RunFault
from envs.specs import EnvSpec
from rpd.deploy.link import Link, LinkLost, parent
from rpd.deploy.policy import EXPORTED, teacher_of
from rpd.policies import Policy, StudentPolicy, trained

Act = Callable[[dict[str, np.ndarray], str], np.ndarray]
"""From an observation without a batch, and an instruction, to an action [A]."""


def load(name: str, spec: EnvSpec) -> tuple[Act, Callable[[], None], EnvSpec]:
    """Load a policy for what a robot offers.

    Returns:
        How it acts, how it forgets an episode, and the spec that says what its actions mean.

    Raises:
        ConfigError: no such policy, or it does not fit.
    """
    path = trained(name) if teacher_of(name) is None else None
    if path is not None and (path / EXPORTED).is_file():
        from rpd.export.runtime import BadExport
        from rpd.export.runtime import Policy as Exported

        try:
            exported = Exported.load(path)
        except BadExport as error:
            raise ConfigError(str(error)) from None
        made_for = EnvSpec.model_validate(exported.spec)
        spec.check_policy(made_for)
        return exported.act, exported.reset, made_for
    policy = _torch_policy(name, spec)

    def act(obs: dict[str, np.ndarray], instruction: str) -> np.ndarray:
        rows = TensorDict({k: torch.from_numpy(np.array(v))[None] for k, v in obs.items()}, batch_size=[1])
        with torch.no_grad():
            return policy.act(rows, [instruction])[0].numpy()

    policy.seed(0)
    return act, lambda: policy.reset(torch.ones(1, dtype=torch.bool)), spec


def _torch_policy(name: str, spec: EnvSpec) -> Policy:
    teacher = teacher_of(name)
    if teacher is not None:
        from teachers.registry import make

        return make(teacher, spec, torch.device("cpu"))
    from students.actor_critic import ActorCritic
    from students.locate import resolve_policy
    from teachers.policy import outside_base

    student = ActorCritic.from_pretrained(resolve_policy(name))
    student.fit(spec)
    return StudentPolicy(student, name, outside_base(student, spec, torch.device("cpu")))


def serve(link: Link, act: Act, reset: Callable[[], None], delay: float) -> None:
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
            action = act(order["obs"], order["instruction"])
            seconds = time.monotonic() - began
            answer = {"tick": order["tick"], "action": np.asarray(action, dtype=np.float64), "seconds": seconds}
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
            act, reset, spec = load(order["policy"], EnvSpec.model_validate_json(order["spec"]))
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
