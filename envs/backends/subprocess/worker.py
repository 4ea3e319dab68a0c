"""Worker process with several simulations: reads actions from shared memory and writes results there.

Commands and answers are small JSON messages on a pipe. The worker exits when the other end of the pipe is closed. `fresh` is
the entry point of an interpreter that builds its own simulations; `template` builds the shared part once and forks the
workers, which share its memory. Both are started by `rpd.envs.backends.subprocess.launch`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any, NoReturn

import torch

from rpd.envs import user_files
from rpd.envs.backends.protocol import Factory
from rpd.envs.backends.subprocess import shared_arrays
from rpd.envs.errors import ConfigError


class Worker:
    """Simulations of environments `first` to `first + count - 1`; public methods are the commands of the protocol."""

    def __init__(self, fd: int, build: Factory, first: int, count: int) -> None:
        self.fd = fd
        self.first = first
        self.sims = [build() for _ in range(count)]

    def hello(self) -> dict[str, Any]:
        """Describe one environment."""
        sim = self.sims[0]
        obs = {k: (str(v.numpy().dtype), tuple(v.shape[1:])) for k, v in sim.observe().items()}
        state = sim.get_state().numpy()
        return {
            "spec": sim.spec.model_dump(mode="json"),
            "obs": obs,
            "views": {key: ("uint8", shape) for key, shape in sim.view_shapes.items()},
            "state": (str(state.dtype), state.shape[1:]),
            "image": sim.render_shape,
            "exact_resume": sim.exact_resume,
            "remarks": sim.remarks,
        }

    def attach(self, layout: shared_arrays.Layout) -> None:
        """Map the shared arrays."""
        self.arrays = shared_arrays.attach(self.fd, layout)

    def step(self) -> None:
        """Step every environment with its action."""
        actions = torch.from_numpy(self.arrays["action"])
        for env, sim in enumerate(self.sims, start=self.first):
            outcome = sim.step(actions[env : env + 1])
            self._write(env, outcome.obs)
            self.arrays["reward"][env] = outcome.reward.item()
            success = self.arrays["success"][env] = outcome.success.item()
            self.arrays["terminated"][env] = success if outcome.terminated is None else outcome.terminated.item()
            self.arrays["truncated"][env] = outcome.truncated is not None and outcome.truncated.item()

    def reset(self, envs: list[int], exact: bool) -> None:
        """Start episodes with the seeds in shared memory, see `Simulation.reset`."""
        for env in envs:
            self._write(env, self.sims[env - self.first].reset(int(self.arrays["seed"][env]), exact))

    def teacher_images(self, envs: list[int]) -> None:
        """Render the teacher-only cameras."""
        for env in envs:
            self._write(env, self.sims[env - self.first].teacher_images())

    def render(self, envs: list[int]) -> None:
        """Render environments from the viewer camera."""
        for env in envs:
            self.arrays["image"][env] = self.sims[env - self.first].render()[0].numpy()

    def get_state(self) -> None:
        """Copy the simulation states to shared memory."""
        for env, sim in enumerate(self.sims, start=self.first):
            self.arrays["sim"][env] = sim.get_state()[0].numpy()

    def set_state(self) -> None:
        """Restart each environment's episode from its seed, then restore the saved state."""
        states = torch.from_numpy(self.arrays["sim"])
        for env, sim in enumerate(self.sims, start=self.first):
            sim.reset(int(self.arrays["seed"][env]), exact=False)
            sim.set_state(states[env : env + 1].clone())
            self._write(env, sim.observe())

    def _write(self, env: int, obs: dict[str, torch.Tensor]) -> None:
        for key, value in obs.items():
            self.arrays[key][env] = value[0].numpy()


def fresh() -> NoReturn:
    """Build and serve simulations. Command-line arguments: file descriptors of the pipe and of the shared memory."""
    _prepare_process()
    pipe, fd = Connection(int(sys.argv[1])), int(sys.argv[2])
    with _Reported(pipe):
        message = json.loads(pipe.recv_bytes())
        _serve(pipe, Worker(fd, _factory(message), message["first"], message["count"]))
    _leave()


def template() -> NoReturn:
    """Build the shared part of the simulations and fork workers on request. Arguments as for `fresh`.

    The pipe carries requests. To start a worker, the file descriptors of its pipe and its log follow the request; the answer is
    its process id. To reap a worker, the answer is its exit code.
    """
    _prepare_process()
    pipe, fd = Connection(int(sys.argv[1])), int(sys.argv[2])
    with _Reported(pipe):
        build = _factory(json.loads(pipe.recv_bytes()))
        gc.collect()
        gc.freeze()  # otherwise the garbage collector writes to every shared object and copies its page
        _answer(pipe, None)
        while True:
            order = json.loads(pipe.recv_bytes())
            if "wait_for" in order:
                _answer(pipe, {"code": os.waitstatus_to_exitcode(os.waitpid(order["wait_for"], 0)[1])})
                continue
            theirs, log = recv_handle(pipe), recv_handle(pipe)
            child = os.fork()
            if child == 0:
                pipe.close()
                os.dup2(log, 1)
                os.dup2(log, 2)
                _forked(theirs, fd, build, order)
            os.close(theirs)
            os.close(log)
            _answer(pipe, {"pid": child})
    _leave()


def _forked(handle: int, fd: int, build: Factory, order: dict[str, Any]) -> NoReturn:
    pipe = Connection(handle)
    with _Reported(pipe):
        _serve(pipe, Worker(fd, build, order["first"], order["count"]))
    _leave()


def _factory(message: dict[str, Any]) -> Factory:
    user_files.inherit()
    make: Callable[..., Factory] = importlib.import_module(message["module"]).factory
    return make(**message["arguments"])


def _serve(pipe: Connection, worker: Worker) -> None:
    with torch.inference_mode():
        _answer(pipe, worker.hello())
        while True:
            command = json.loads(pipe.recv_bytes())
            _answer(pipe, getattr(worker, command.pop("do"))(**command))


class _Reported:
    """Context that reports exceptions to the other end of the pipe, except for a closed pipe."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, ConfigError):
            _answer(self.pipe, {"config_error": str(error)})
        elif error is not None and not isinstance(error, EOFError | ConnectionError):
            traceback.print_exception(error)
            _answer(self.pipe, {"fault": f"{type(error).__name__}: {error}".splitlines()[0]})
        return True


def _prepare_process() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # handled by the parent, which needs the workers to save a checkpoint
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)


def _leave() -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # skips unloading graphics drivers, which is slow and sometimes crashes


def _answer(pipe: Connection, message: dict[str, Any] | None) -> None:
    pipe.send_bytes(json.dumps(message).encode())
