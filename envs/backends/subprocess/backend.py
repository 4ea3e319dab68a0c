"""N simulations in W worker processes, as one backend of `rpd.envs.backends.episodic.EpisodicEnv`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from rpd.envs.backends.protocol import Outcome
from rpd.envs.backends.subprocess import shared_arrays
from rpd.envs.backends.subprocess.launch import Process, Starter, exit_reason, receive, send
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, RunFault, WorkerDied
from rpd.envs.resources import cores
from rpd.envs.specs import EnvSpec

_RESULTS = {"reward": "float32", "success": "bool", "terminated": "bool", "truncated": "bool"}
"""Shared arrays [N] of the results of a step, with their types."""


@dataclass
class _Worker:
    process: Process
    pipe: Connection
    envs: range
    log: IO[bytes]
    failed: bool = False


class Workers:
    """N simulations in W processes.

    Observations, rewards and images are views of shared memory, valid until the next call. If a worker dies, the current
    step raises; a reset of all environments replaces the worker.

    Args:
        num_envs: N.
        count: maximum of W.
        starter: makes the process starter, given the file descriptor of the shared memory.

    Raises:
        ConfigError: the simulation rejects its configuration.
        WorkerDied: a worker exited during startup.
    """

    spec: EnvSpec
    exact_resume: bool
    remarks: tuple[str, ...]

    def __init__(self, num_envs: int, count: int, starter: Callable[[int], Starter]) -> None:
        self.num_envs = num_envs
        self._workers: list[_Worker] = []
        self._starter: Starter | None = None
        self._fd = shared_arrays.create()
        try:
            self._starter = starter(self._fd)
            parts = np.array_split(np.arange(num_envs), min(count, num_envs))
            self._workers = [self._start(range(int(part[0]), int(part[-1]) + 1)) for part in parts]
            hello = self._gather(self._workers)[0]
            self.spec = EnvSpec(**hello["spec"])
            self.exact_resume, self.remarks = hello["exact_resume"], tuple(hello["remarks"])
            self._layout = self._arrange(hello)
            self._call("attach", layout=self._layout)
            self._arrays = {k: torch.from_numpy(v) for k, v in shared_arrays.attach(self._fd, self._layout).items()}
            self._obs, self._views = list(hello["obs"]), list(hello["views"])
        except BaseException:
            self.close()
            raise

    @property
    def device(self) -> torch.device:
        """Device of returned tensors: the CPU."""
        return torch.device("cpu")

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def step(self, action: Tensor) -> Outcome:
        """Step every environment with actions [N, A]."""
        self._arrays["action"].copy_(action)
        self._call("step")
        return Outcome(self._observation(), **{name: self._arrays[name] for name in _RESULTS})

    def reset(self, envs: list[int], seeds: list[int], exact: bool) -> dict[str, Tensor]:
        """Start episodes with `seeds` in the environments `envs`, see `Simulation.reset`; returns all observations [N, ...]."""
        if len(envs) == self.num_envs:
            self._revive()
        self._arrays["seed"][envs] = torch.tensor(seeds)
        self._call("reset", envs, exact=exact)
        return self._observation()

    def teacher_images(self, envs: list[int]) -> dict[str, Tensor]:
        """Render the teacher-only cameras: ``view.<camera>`` uint8 [len(envs), H, W, 3]."""
        if self._views:
            self._call("teacher_images", envs)
        return {key: self._arrays[key][envs] for key in self._views}

    def render(self, envs: list[int]) -> Tensor:
        """Render environments: uint8 [len(envs), H, W, 3]."""
        self._call("render", envs)
        return self._arrays["image"][envs]

    def get_state(self) -> Tensor:
        """Copy the simulation states [N, D]."""
        self._call("get_state")
        return self._arrays["sim"].clone()

    def set_state(self, state: Tensor, seeds: list[int]) -> dict[str, Tensor]:
        """Restore `get_state` within episodes of `seeds` [N]; returns all observations [N, ...]."""
        self._arrays["sim"].copy_(state)
        self._arrays["seed"].copy_(torch.tensor(seeds))
        self._call("set_state")
        return self._observation()

    def close(self) -> None:
        """Stop the workers."""
        for worker in self._workers:
            self._stop(worker)
        self._workers = []
        if self._starter is not None:
            self._starter.close()
            self._starter = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _arrange(self, hello: dict[str, Any]) -> shared_arrays.Layout:
        n = self.num_envs
        own = {"sim": hello["state"], "image": ("uint8", hello["image"])} | hello["obs"] | hello["views"]
        layout: shared_arrays.Layout = {
            "action": ("float32", (n, self.spec.action.dim)),
            **{name: (dtype, (n,)) for name, dtype in _RESULTS.items()},
            "seed": ("int64", (n,)),
        }
        return layout | {key: (dtype, (n, *shape)) for key, (dtype, shape) in own.items()}

    def _observation(self) -> dict[str, Tensor]:
        return {key: self._arrays[key] for key in self._obs}

    def _start(self, envs: range) -> _Worker:
        assert self._starter is not None
        log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the worker)
        return _Worker(*self._starter.start(envs.start, len(envs), log), envs, log)

    def _revive(self) -> None:
        """Restart the workers that failed."""
        born = []
        for i, worker in enumerate(self._workers):
            if worker.failed:
                self._stop(worker)
                self._workers[i] = self._start(worker.envs)
                born.append(self._workers[i])
        if born:
            self._gather(born)
            for worker in born:
                send(worker.pipe, {"do": "attach", "layout": self._layout})
            self._gather(born)

    def _stop(self, worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.kill()  # a busy worker would not notice the closed pipe
        with contextlib.suppress(RunFault):  # the process that forked it may have exited too
            worker.process.wait()
        worker.log.close()

    def _call(self, command: str, envs: list[int] | None = None, **arguments: Any) -> None:
        """Run a command in the workers of some environments (None: all) and wait for completion."""
        called = []
        for worker in self._workers:
            mine = {} if envs is None else {"envs": [env for env in envs if env in worker.envs]}
            if mine.get("envs", True):
                with contextlib.suppress(ConnectionError):  # `_gather` reports a dead worker
                    send(worker.pipe, {"do": command, **mine, **arguments})
                called.append(worker)
        self._gather(called)

    def _gather(self, workers: list[_Worker]) -> list[Any]:
        """Collect every worker's answer, then raise the first error: no answer may be left in a pipe."""
        answers: dict[int, Any] = {}
        complaint: Exception | None = None
        pending = {worker.pipe: worker for worker in workers}
        while pending:
            for pipe in wait(list(pending)):
                worker = pending.pop(pipe)  # type: ignore[call-overload]
                try:
                    answers[worker.envs.start] = receive(worker.pipe)
                except (EOFError, ConnectionError):
                    worker.failed = True
                    complaint = complaint or WorkerDied(
                        f"{self._name(worker)} {exit_reason(worker.process.wait(), worker.log)}"
                    )
                except RunFault as fault:
                    worker.failed = True
                    complaint = complaint or RunFault(f"{self._name(worker)}: {fault}")
                except ConfigError as error:
                    worker.failed = True
                    complaint = complaint or error
        if complaint:
            raise complaint
        return [answers[worker.envs.start] for worker in workers]

    def _name(self, worker: _Worker) -> str:
        return f"environment worker {self._workers.index(worker)} (environments {worker.envs[0]} to {worker.envs[-1]})"


def worker_count(config: EnvConfig, num_threads: int | None) -> int:
    """Number of workers W: `config.num_workers`, else `num_threads`, else the number of cores; at most one per environment."""
    return min(config.num_envs, config.num_workers or num_threads or cores())
