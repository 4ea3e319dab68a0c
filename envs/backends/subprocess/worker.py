"""A process with several single simulations: reads actions from shared memory and writes results there.

Commands and their answers are small JSON messages on a pipe; when the pipe's other end goes, however it went, so does the
worker. `fresh` is the entry of an interpreter that builds its simulations itself, `template` that of one that builds what
they share once and forks the workers, which then share its memory. Both are started by `envs.workers.start`.
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

from envs.errors import ConfigError
from envs.simulation import Factory
from envs.workers import memory


class Worker:
    """The simulations of environments `first` to `first + count - 1`, and what they can be told to do."""

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


def fresh() -> NoReturn:
    """Build and serve. Arguments: file descriptors of the pipe and of the shared memory."""
    _prepare_process()
    pipe, fd = Connection(int(sys.argv[1])), int(sys.argv[2])
    with _Reported(pipe):
        message = json.loads(pipe.recv_bytes())
        _serve(pipe, Worker(fd, _factory(message), message["first"], message["count"]))
    _leave()


def template() -> NoReturn:
    """Build what the workers share, and fork them as told. Arguments as for `fresh`; here the pipe carries orders.

    To start a worker, its pipe and its log follow the order as file descriptors; the answer is its process id. To bury
    one, the answer is its exit code.
    """
    _prepare_process()
    pipe, fd = Connection(int(sys.argv[1])), int(sys.argv[2])
    with _Reported(pipe):
        build = _factory(json.loads(pipe.recv_bytes()))
        gc.collect()
        gc.freeze()  # the collector would write into every object that the workers share
        _answer(pipe, None)
        while True:
            order = json.loads(pipe.recv_bytes())
            if "bury" in order:
                _answer(pipe, {"code": os.waitstatus_to_exitcode(os.waitpid(order["bury"], 0)[1])})
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
    make: Callable[..., Factory] = importlib.import_module(message["module"]).factory
    return make(**message["arguments"])


def _serve(pipe: Connection, worker: Worker) -> None:
    with torch.inference_mode():
        _answer(pipe, worker.hello())
        while True:
            command = json.loads(pipe.recv_bytes())
            _answer(pipe, getattr(worker, command.pop("do"))(**command))


class _Reported:
    """Whatever goes wrong inside is told to the other end, unless that is what has gone."""

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
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which saves a checkpoint with our help
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)


def _leave() -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # graphics drivers are slow to unload, and some crash doing so


def _answer(pipe: Connection, message: dict[str, Any] | None) -> None:
    pipe.send_bytes(json.dumps(message).encode())
