"""Overhead of querying a teacher through a server, with a teacher of zero cost."""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.processes import without_working_dir
from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec
from rpd.serve.peer import Limits
from rpd.serve.server import PolicyServer
from rpd.serve.service import PolicyService
from rpd.serve.status import Status
from rpd.teachers.adapters.remote_teacher import RemoteTeacher
from rpd.teachers.base import Teacher, TeacherOutput
from rpd.teachers.transport.client import Client

BATCHES = (1, 16)
CALLS = 20  # per round
WAYS = ("in-process", "websocket, inline", "websocket, shared memory")


class Still(Teacher):
    """Teacher that answers with zeros, so that only the round trip is measured."""

    name, output_fields = "still", frozenset({"mean"})

    def __init__(self, action_dim: int) -> None:
        self.action_dim = action_dim

    def check_env(self, spec: EnvSpec) -> None:
        """Accept any environment."""

    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Return zeros."""
        n = len(instructions)
        return TeacherOutput(torch.zeros(n, self.action_dim), torch.ones(n, dtype=torch.bool))


def round_trips(image_size: int, rounds: int) -> dict[tuple[str, int], list[float]]:
    """Time `Teacher.label` of images [N, S, S, 3] and a state of 8 numbers: seconds per call, by transport and N.

    The server runs in its own process, on loopback; the transports alternate.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    server = spawn.Process(target=_serve, args=(theirs, image_size), daemon=True)
    with without_working_dir():
        server.start()
    try:
        url = f"ws://127.0.0.1:{ours.recv()}"
        clients = [Client(url, share=share) for share in (False, True)]
        teachers = [Still(_spec(image_size).action.dim), *(RemoteTeacher(c, torch.device("cpu")) for c in clients)]
        seconds: dict[tuple[str, int], list[float]] = {(way, n): [] for way in WAYS for n in BATCHES}
        questions = {n: _question(n, image_size) for n in BATCHES}
        for turn in range(rounds + 1):
            for n, question in questions.items():
                for way, teacher in zip(WAYS, teachers, strict=True):
                    took = [_timed(functools.partial(teacher.label, *question)) for _ in range(CALLS)]
                    seconds[way, n] += took if turn else []  # the first round warms up
        for client in clients:
            client.close()
        return seconds
    finally:
        server.terminate()
        server.join()


def _serve(pipe: Connection, image_size: int) -> None:
    """Entry point of the server process; exits with its parent."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    spec = _spec(image_size)
    service = PolicyService(Still(spec.action.dim), spec, "still")
    server = PolicyServer(service, "127.0.0.1", 0, None, Limits(rate=1e9), Status(every_s=float("inf")))

    async def run() -> None:
        await server.run(asyncio.Event(), pipe.send)

    asyncio.run(run())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _spec(image_size: int) -> EnvSpec:
    names = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    return EnvSpec(
        task="bench",
        embodiment=Embodiment(name="none", num_joints=7, descriptor={}),
        observations={
            "image.camera": ObsSpec(shape=(image_size, image_size, 3), dtype="uint8"),
            "state": ObsSpec(shape=(8,), dtype="float32"),
        },
        state_names=tuple(f"s{i}" for i in range(8)),
        action=ActionSpec(names=names, units=("",) * 7, scale=(1.0,) * 7, discrete=(False,) * 6 + (True,)),
        control_hz=20,
        max_episode_steps=100,
        reward="sparse",
    )


def _question(n: int, image_size: int) -> tuple[TensorDict, list[str]]:
    images = torch.randint(0, 256, (n, image_size, image_size, 3), dtype=torch.uint8)
    return TensorDict({"image.camera": images, "state": torch.zeros(n, 8)}, [n]), ["pick up the cube"] * n


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
