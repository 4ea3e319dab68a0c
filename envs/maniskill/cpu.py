"""ManiSkill on CPUs: worker processes, several single-scene simulations in each."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from envs.base import EnvConfig
from envs.errors import ConfigError, RunFault, WorkerDied
from envs.maniskill import memory
from envs.maniskill.sim import Outcome
from envs.specs import EnvSpec
from envs.vulkan import render_settings

# A fresh interpreter, and not a fork: safe beside threads, CUDA and graphics drivers, and no `__main__` guard is needed.
_START = "import sys; del sys.path[0]; from envs.maniskill.worker import main; main()"


@dataclass
class _Worker:
    process: subprocess.Popen
    pipe: Connection
    envs: range
    log: IO[bytes]


class Workers:
    """N simulations in W processes, as the backend of `envs.maniskill.vector.ManiSkillEnv`.

    Observations, rewards and images are views of shared memory: valid until the next call.

    Args:
        task: without the simulator's prefix.
        config: `num_envs` and `num_workers` (None: `num_cores`) are used here, the rest by each simulation.
        num_cores: workers at most.

    Raises:
        ConfigError: no Vulkan driver that works, or whatever the task does not offer.
        WorkerDied: a worker ended while it started.
    """

    spec: EnvSpec

    def __init__(self, task: str, config: EnvConfig, num_cores: int) -> None:
        render_backend, environment = render_settings()
        count = min(config.num_workers or num_cores, config.num_envs)
        self.num_envs = config.num_envs
        self._workers: list[_Worker] = []
        self._fd = memory.create()
        try:
            for envs in np.array_split(np.arange(config.num_envs), count):
                self._start(range(envs[0], envs[-1] + 1), environment)
            for worker in self._workers:
                self._send(
                    worker,
                    task=task,
                    config=config.model_dump(mode="json"),
                    first=worker.envs.start,
                    count=len(worker.envs),
                    render_backend=render_backend,
                )
            hello = self._gather(self._workers)[0]
            self.spec = EnvSpec(**hello["spec"])
            layout = self._layout(hello)
            self._call("attach", layout=layout)
            self._arrays = {k: torch.from_numpy(v) for k, v in memory.attach(self._fd, layout).items()}
            self._obs, self._views = list(hello["obs"]), list(hello["views"])
        except BaseException:
            for worker in self._workers:
                worker.process.kill()  # one that still builds its scenes would not notice that we hang up
            self.close()
            raise

    @property
    def device(self) -> torch.device:
        """Where tensors come from."""
        return torch.device("cpu")

    def step(self, action: Tensor) -> Outcome:
        """Step every environment with actions [N, A]."""
        self._arrays["action"].copy_(action)
        self._call("step")
        return Outcome(self._observation(), self._arrays["reward"], self._arrays["success"])

    def reset(self, envs: list[int], seeds: list[int], exact: bool) -> dict[str, Tensor]:
        """Begin the episodes of seeds in some environments (always exact); returns the observations of all."""
        self._arrays["seed"][envs] = torch.tensor(seeds)
        self._call("reset", envs)
        return self._observation()

    def look(self, envs: list[int]) -> dict[str, Tensor]:
        """Look through the teacher's cameras: ``view.<camera>`` uint8 [len(envs), H, W, 3]."""
        if self._views:
            self._call("look", envs)
        return {key: self._arrays[key][envs] for key in self._views}

    def render(self, envs: list[int]) -> Tensor:
        """Render environments: uint8 [len(envs), H, W, 3]."""
        self._call("render", envs)
        return self._arrays["image"][envs]

    def get_state(self) -> Tensor:
        """Copy what moves [N, D]."""
        self._call("get_state")
        return self._arrays["sim"].clone()

    def set_state(self, state: Tensor, seeds: list[int]) -> dict[str, Tensor]:
        """Restore `get_state` within the episodes of seeds [N]; returns the observations."""
        self._arrays["sim"].copy_(state)
        self._arrays["seed"].copy_(torch.tensor(seeds))
        self._call("set_state")
        return self._observation()

    def close(self) -> None:
        """End the workers: they leave when their pipe closes, and are killed if they do not."""
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            try:
                worker.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.log.close()
        self._workers = []
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _layout(self, hello: dict[str, Any]) -> memory.Layout:
        n = self.num_envs
        layout: memory.Layout = {
            "action": ("float32", (n, self.spec.action.dim)),
            "reward": ("float32", (n,)),
            "success": ("bool", (n,)),
            "seed": ("int64", (n,)),
            "sim": ("float32", (n, hello["state"])),
            "image": ("uint8", (n, *hello["image"])),
        }
        return layout | {key: (dtype, (n, *shape)) for key, (dtype, shape) in (hello["obs"] | hello["views"]).items()}

    def _observation(self) -> dict[str, Tensor]:
        return {key: self._arrays[key] for key in self._obs}

    def _start(self, envs: range, environment: dict[str, str]) -> None:
        ours, theirs = multiprocessing.Pipe()
        log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the worker)
        process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs.fileno()), str(self._fd)],
            pass_fds=(theirs.fileno(), self._fd),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ
            | environment
            | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "OMP_NUM_THREADS": "1"},
        )
        theirs.close()
        self._workers.append(_Worker(process, ours, envs, log))

    def _call(self, command: str, envs: list[int] | None = None, **arguments: Any) -> None:
        """Have the workers of some environments (None: all) do something, and wait until they have."""
        called = []
        for worker in self._workers:
            mine = {} if envs is None else {"envs": [env for env in envs if env in worker.envs]}
            if mine.get("envs", True):
                self._send(worker, do=command, **mine, **arguments)
                called.append(worker)
        self._gather(called)

    def _send(self, worker: _Worker, **message: Any) -> None:
        try:
            worker.pipe.send_bytes(json.dumps(message).encode())
        except (BrokenPipeError, ConnectionError):
            raise self._obituary(worker) from None

    def _gather(self, workers: list[_Worker]) -> list[Any]:
        answers: dict[int, Any] = {}
        pending = {worker.pipe: worker for worker in workers}
        while pending:
            for pipe in wait(list(pending)):
                worker = pending.pop(pipe)  # type: ignore[call-overload]
                try:
                    answer = json.loads(worker.pipe.recv_bytes())
                except (EOFError, ConnectionError):
                    raise self._obituary(worker) from None
                if answer and "config_error" in answer:
                    raise ConfigError(answer["config_error"])
                if answer and "fault" in answer:
                    raise RunFault(f"{self._name(worker)}: {answer['fault']}")
                answers[worker.envs.start] = answer
        return [answers[worker.envs.start] for worker in workers]

    def _name(self, worker: _Worker) -> str:
        return f"environment worker {self._workers.index(worker)} (environments {worker.envs[0]} to {worker.envs[-1]})"

    def _obituary(self, worker: _Worker) -> WorkerDied:
        code = worker.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        worker.log.seek(0)
        words = worker.log.read().decode(errors="replace").strip().splitlines()
        return WorkerDied(f"{self._name(worker)} {how}" + (f": {words[-1]}" if words else ""))
