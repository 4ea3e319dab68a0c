"""Policy in its own process: the control loop continues if it is slow, fails or exits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rpd import export
from rpd.config.deploy import CascadeConfig
from rpd.core.link import Child, LinkLost
from rpd.deploy.cascade import STUDENT
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.control.arm import Array
from rpd.envs.errors import ConfigError, RunFault
from rpd.envs.specs import EnvSpec
from rpd.students.io import pretrained
from rpd.students.io.policy_path import resolve_policy
from rpd.students.training_range import TrainingRange
from rpd.teachers import registry as teachers
from rpd.teachers.refs import PolicyRef, parse, trained_path
from rpd.teachers.transport.codec import Message


class PolicyLost(RunFault):
    """The policy process is gone or failed; the message states the reason."""


@dataclass(frozen=True)
class Answer:
    """Answer of the policy to one observation."""

    tick: int
    """Tick of the observation."""
    action: Array
    """[A] action, unchecked."""
    seconds: float
    """Computation time of the policy, s."""
    who: str = STUDENT
    """Source of the action, see `rpd.deploy.cascade.Decision`."""
    spread: float | None = None
    value: float | None = None


class PolicyProcess:
    """Sends observations without waiting, and returns answers as they arrive."""

    def __init__(self, name: str, spec: EnvSpec, delay: float = 0.0, cascade: CascadeConfig | None = None) -> None:
        """Start the process and wait until the policy is loaded.

        Args:
            name: see `wanted_spec`.
            spec: spec of the robot's observations and actions.
            delay: artificial delay of every answer, s, to emulate a network.
            cascade: teacher and ensemble, if any.

        Raises:
            ConfigError: the policy does not exist or does not fit the robot.
        """
        cascade = cascade or CascadeConfig()
        order = {"policy": name, "spec": spec.model_dump_json(), "delay": delay, "cascade": cascade.model_dump_json()}
        self._child = Child("rpd.deploy.policy_process", f"policy {name}", order)
        self._asked = -1  # tick of the newest query
        self.spec = EnvSpec.model_validate_json(self._child.ready["spec"])
        """Spec with the meaning of its actions."""
        self.training: TrainingRange | None = self._child.ready["training"]
        """Range of the state entries in training, if known."""

    @property
    def pid(self) -> int:
        """Process id of the policy process."""
        return self._child.pid

    def reset(self) -> None:
        """Start an episode: reset the policy and discard pending queries."""
        self._send({"do": "reset"})

    def ask(self, tick: int, obs: dict[str, Array], instruction: str) -> None:
        """Send an observation, one array per key, without batch dimension."""
        self._asked = tick
        self._send({"do": "act", "tick": tick, "obs": obs, "instruction": instruction})

    def answer(self, until: float | None = None) -> Answer | None:
        """Return the latest new answer, or None; waits until `until` (`time.monotonic`) for the answer to the newest query.

        An earlier answer does not end the wait: after one late answer every further one would be used a step late.

        Raises:
            PolicyLost: the policy process is gone or failed.
        """
        newest: Message | None = None
        while newest is None or newest["tick"] != self._asked:
            messages = self._take(until)
            newest = messages[-1] if messages else newest
            if until is None or not messages:
                break
        if newest is None:
            return None
        rest = {key: newest[key] for key in ("seconds", "who", "spread", "value")}
        return Answer(newest["tick"], np.array(newest["action"], dtype=np.float64), **rest)

    def _take(self, until: float | None) -> list[Message]:
        try:
            messages = self._child.link.take(until)
        except LinkLost as error:
            raise PolicyLost(str(error)) from None
        for message in messages:
            if "error" in message:
                raise PolicyLost(f"{self._child.link.name}: {message['error']}")
        return messages

    def close(self) -> None:
        """Stop the policy process."""
        self._child.close()

    def _send(self, message: dict[str, object]) -> None:
        try:
            self._child.link.send(message)
        except LinkLost as error:
            raise PolicyLost(str(error)) from None


def refuse_baseline(ref: PolicyRef) -> None:
    """Refuse ``zero`` and ``random`` on a robot.

    Raises:
        ConfigError: the reference is one of them.
    """
    if ref.is_baseline:
        raise ConfigError(f"{ref.text} ignores observations and must not drive a robot: pass a trained policy or a teacher")


def wanted_spec(name: str, task: str | None, robot: str) -> EnvSpec:
    """Spec that a policy was trained on, read without loading the policy.

    Args:
        name: policy reference.
        task: task of a teacher, which has none of its own.
        robot: kinematics of the robot that a teacher controls.

    Raises:
        ConfigError: the policy does not exist, or a teacher without a task.
    """
    ref = parse(name)
    refuse_baseline(ref)
    if ref.is_teacher:
        if task is None:
            raise ConfigError(f"{name}: for which task? add --task, e.g. --task tabletop/PickCube")
        request = teachers.camera_request(name)
        seen = {"obs_mode": "rgb", "cameras": request.cameras, "image_size": request.image_size} if request.cameras else {}
        env = envs.make(task, EnvConfig(robot=robot, num_envs=1, **seen), num_threads=1)
        env.close()
        return env.spec
    path = trained_path(name)
    assert path is not None, "neither a baseline nor a teacher"
    spec = export.spec_of(path) if export.is_exported(path) else pretrained.describe(resolve_policy(path)).spec
    if task not in (None, spec.task):
        spec = spec.model_copy(update={"task": task})
    return spec
