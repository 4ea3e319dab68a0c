"""The policy, in a process of its own: it may be slow, fail or die, and the control loop goes on until it decides to stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs import registry as envs
from envs.base import EnvConfig
from envs.errors import ConfigError, RunFault
from envs.specs import EnvSpec
from rpd import export, policies
from rpd.deploy.cascade import STUDENT, CascadeConfig
from rpd.deploy.kinematics import Array
from rpd.deploy.link import Child, LinkLost
from students import pretrained
from students.locate import resolve_policy
from teachers import registry as teachers


class PolicyLost(RunFault):
    """The policy's process is gone, or it failed; the message says how."""


@dataclass(frozen=True)
class Answer:
    """What the policy says to one observation."""

    tick: int
    """Of the observation."""
    action: Array
    """[A] as it came, not checked."""
    seconds: float
    """That the policy took."""
    who: str = STUDENT
    """Whose action it is, see `rpd.deploy.cascade.Decision`."""
    spread: float | None = None
    value: float | None = None


class PolicyProcess:
    """Asks without waiting, and takes answers as they come."""

    def __init__(self, name: str, spec: EnvSpec, delay: float = 0.0, cascade: CascadeConfig | None = None) -> None:
        """Start it, and wait until it has loaded.

        Args:
            name: see `wanted_spec`.
            spec: what the robot offers.
            delay: seconds by which every answer is late on purpose, as over a network.
            cascade: whom it may ask.

        Raises:
            ConfigError: no such policy, or it does not fit the robot.
        """
        cascade = cascade or CascadeConfig()
        order = {"policy": name, "spec": spec.model_dump_json(), "delay": delay, "cascade": cascade.model_dump_json()}
        self._child = Child("rpd.deploy.policy_process", f"policy {name}", order)
        self.spec = EnvSpec.model_validate_json(self._child.ready["spec"])
        """What its actions mean."""

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._child.pid

    def reset(self) -> None:
        """Begin an episode: forget the one before, and what was asked in it."""
        self._send({"do": "reset"})

    def ask(self, tick: int, obs: dict[str, Array], instruction: str) -> None:
        """Send an observation, an array per key without a batch."""
        self._send({"do": "act", "tick": tick, "obs": obs, "instruction": instruction})

    def answer(self, until: float | None = None) -> Answer | None:
        """Return the newest answer that has not been taken yet, waiting for one until a `time.monotonic`.

        Raises:
            PolicyLost: there will be none.
        """
        try:
            messages = self._child.link.take(until)
        except LinkLost as error:
            raise PolicyLost(str(error)) from None
        for message in messages:
            if "error" in message:
                raise PolicyLost(f"{self._child.link.name}: {message['error']}")
        if not messages:
            return None
        newest = messages[-1]
        rest = {key: newest[key] for key in ("seconds", "who", "spread", "value")}
        return Answer(newest["tick"], np.array(newest["action"], dtype=np.float64), **rest)

    def close(self) -> None:
        """End its process."""
        self._child.close()

    def _send(self, message: dict[str, object]) -> None:
        try:
            self._child.link.send(message)
        except LinkLost as error:
            raise PolicyLost(str(error)) from None


def wanted_spec(name: str, task: str | None, robot: str) -> EnvSpec:
    """What a policy was made for, read without loading it.

    Args:
        name: a run, a checkpoint, a policy folder, a folder that `rpd export` wrote, ``teacher:NAME``, or ``remote:URL``.
        task: of a teacher, which has none of its own.
        robot: for a teacher, the kinematics of the robot that it shall move.

    Raises:
        ConfigError: no such policy, or a teacher without a task.
    """
    if (teacher := teacher_of(name)) is not None:
        if task is None:
            raise ConfigError(f"{name}: for which task? add --task, e.g. --task tabletop/PickCube")
        views = teachers.needs(teacher)
        seen = {"obs": "image", "cameras": views.cameras, "image_size": views.image_size} if views.cameras else {}
        env = envs.make(task, EnvConfig(robot=robot, num_envs=1, **seen), num_threads=1)
        env.close()
        return env.spec
    path = policies.trained(name)
    if path is None:
        raise ConfigError(f"{name}: acts blindly, and a robot shall not: name a trained policy, or teacher:NAME")
    spec = export.spec_of(path) if export.is_exported(path) else pretrained.describe(resolve_policy(path)).spec
    if task not in (None, spec.task):
        spec = spec.model_copy(update={"task": task})
    return spec


def teacher_of(name: str) -> str | None:
    """The teacher that a policy's name means, if it means one."""
    return name if name.startswith("remote:") else policies.teacher_of(name)
