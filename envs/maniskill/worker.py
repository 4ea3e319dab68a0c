"""A process with several single-scene simulations: reads actions from shared memory and writes results there.

Started by `envs.maniskill.cpu.Workers` as a fresh interpreter. Commands and their answers are small JSON messages on a
pipe; when the pipe's other end goes, however it went, so does the worker.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

import torch

from envs.base import EnvConfig
from envs.errors import ConfigError
from envs.maniskill import fast_ik, memory, tasks
from envs.maniskill.sim import Sim


class Worker:
    """The simulations of environments `first` to `first + count - 1`, and what they can be told to do."""

    def __init__(self, fd: int, task: str, config: dict[str, Any], first: int, count: int, render_backend: str) -> None:
        self.fd = fd
        self.first = first
        built = EnvConfig(**config)
        tasks.load(task)
        self.sims = []
        for _ in range(count):
            gc.freeze()  # ManiSkill collects garbage per scene: do not let it search all that was imported and built before
            sim = Sim(task, built, 1, "physx_cpu", render_backend)
            fast_ik.speed_up(sim.base.agent)
            self.sims.append(sim)

    def hello(self) -> dict[str, Any]:
        """Describe one environment."""
        sim = self.sims[0]
        obs = {k: (str(v.numpy().dtype), tuple(v.shape[1:])) for k, v in sim.observe().items()}
        return {
            "spec": sim.spec.model_dump(mode="json"),
            "obs": obs,
            "views": {key: ("uint8", shape) for key, shape in sim.view_shapes.items()},
            "state": sim.get_state().shape[1],
            "image": sim.render_shape,
        }

    def attach(self, layout: memory.Layout) -> None:
        """Map the shared arrays."""
        self.arrays = memory.attach(self.fd, layout)

    def step(self) -> None:
        """Step every environment with its action."""
        actions = torch.from_numpy(self.arrays["action"])
        for env, sim in enumerate(self.sims, start=self.first):
            outcome = sim.step(actions[env : env + 1])
            self._write(env, outcome.obs)
            self.arrays["reward"][env] = outcome.reward.item()
            self.arrays["success"][env] = outcome.success.item()

    def reset(self, envs: list[int]) -> None:
        """Begin the episodes whose seeds the parent wrote."""
        for env in envs:
            self._write(env, self.sims[env - self.first].reset(int(self.arrays["seed"][env])))

    def look(self, envs: list[int]) -> None:
        """Look through the teacher's cameras."""
        for env in envs:
            self._write(env, self.sims[env - self.first].look())

    def render(self, envs: list[int]) -> None:
        """Render environments for people."""
        for env in envs:
            self.arrays["image"][env] = self.sims[env - self.first].render()[0].numpy()

    def get_state(self) -> None:
        """Copy the simulations' states out."""
        for env, sim in enumerate(self.sims, start=self.first):
            self.arrays["sim"][env] = sim.get_state()[0].numpy()

    def set_state(self) -> None:
        """Begin each environment's episode anew, for what its seed alone decides, and move it to the saved state."""
        states = torch.from_numpy(self.arrays["sim"])
        for env, sim in enumerate(self.sims, start=self.first):
            sim.reset(int(self.arrays["seed"][env]))
            sim.set_state(states[env : env + 1].clone())
            self._write(env, sim.observe())

    def _write(self, env: int, obs: dict[str, torch.Tensor]) -> None:
        for key, value in obs.items():
            self.arrays[key][env] = value[0].numpy()


def main() -> None:
    """Serve commands until the parent hangs up. Arguments: file descriptors of the pipe and of the shared memory."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which saves a checkpoint with our help
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    pipe, fd = Connection(int(sys.argv[1])), int(sys.argv[2])
    try:
        with torch.inference_mode():
            worker = Worker(fd, **json.loads(pipe.recv_bytes()))
            _answer(pipe, worker.hello())
            while True:
                command = json.loads(pipe.recv_bytes())
                result = getattr(worker, command.pop("do"))(**command)
                _answer(pipe, result)
    except (EOFError, ConnectionError):  # the parent has gone or closed us
        pass
    except ConfigError as error:
        _answer(pipe, {"config_error": str(error)})
    except Exception as error:
        traceback.print_exc()
        _answer(pipe, {"fault": f"{type(error).__name__}: {error}".splitlines()[0]})
    sys.stderr.flush()
    os._exit(0)  # graphics drivers are slow to unload, and some crash doing so


def _answer(pipe: Connection, message: dict[str, Any] | None) -> None:
    pipe.send_bytes(json.dumps(message).encode())
