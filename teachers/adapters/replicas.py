"""A teacher behind several replicas of one policy server: each batch is split, and its rows keep their order."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec
from rpd.teachers.adapters.remote_teacher import RemoteTeacher
from rpd.teachers.base import Teacher, TeacherOutput
from rpd.teachers.transport.client import Client
from rpd.teachers.transport.codec import Message, encode
from rpd.teachers.transport.dispatch import Dispatcher

LOG = logging.getLogger(__name__)
PARTS = 2
"""Parts of a batch per replica: a slow replica holds up a batch by one of them."""
SMALL = 16
"""Rows below which a part costs a network more per row; batches are split further only for a replica that would have none."""
OWN = ("name", "limits", "shared_memory")
"""Metadata in which replicas may differ."""

T = TypeVar("T")


class ReplicatedTeacher(Teacher):
    """Labels with the answers of several servers of the same policy; see docs/serving.md.

    A batch is split at fixed rows into parts, and each part goes to the next replica that is free. Rows of a policy with memory
    stay on their replica: row i of N is always on replica ``i * R // N`` of R.

    Attributes:
        replicas: one teacher per server.
    """

    runs_remotely = True

    def __init__(self, replicas: Sequence[RemoteTeacher], retries: int, rows: int | None = None) -> None:
        """Wrap connections.

        Args:
            replicas: connections without retries to servers of the same policy, see `check_same_policy`.
            retries: attempts to connect to a lost server before it is an error.
            rows: see `split`.
        """
        first = replicas[0]
        self.replicas, self.name = list(replicas), f"remote:{','.join(r.client.url for r in replicas)}"
        self.output_fields, self.bin_edges = first.output_fields, first.bin_edges
        self.needs_teacher_images, self.is_stateful = first.needs_teacher_images, first.is_stateful
        self._retries, self._rows, self._spec = retries, rows, first.spec
        self._seed: int | None = None
        self._dispatcher = Dispatcher(self.replicas, [r.client.url for r in replicas], self._restore, retries)

    def check_env(self, spec: EnvSpec) -> None:
        """See `RemoteTeacher.check_env`; on every server."""
        self._spec = spec
        self._everywhere(lambda i, replica: replica.check_env(spec))

    @property
    def reads_observations(self) -> bool:
        """See `RemoteTeacher`."""
        return self.replicas[0].reads_observations

    @property
    def has_memory(self) -> bool:
        """See `RemoteTeacher`."""
        return self.replicas[0].has_memory

    @property
    def device(self) -> torch.device:
        """Device of the labels."""
        return self.replicas[0].device

    def new_session(self) -> ReplicatedTeacher | None:
        """See `Teacher.new_session`. The connections open with the first request, so that a lost replica is no error."""
        sessions = [replica.new_session(lazy=True) for replica in self.replicas]
        opened = [session for session in sessions if session is not None]
        return ReplicatedTeacher(opened, self._retries, self._rows) if len(opened) == len(sessions) else None

    def close(self) -> None:
        """Close the connections."""
        self._dispatcher.close()
        for replica in self.replicas:
            replica.close()

    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Request labels [N] in parts.

        Raises:
            ServerLost: no replica answers; or the one with the memory of these rows does not; or not an answer to a request.
        """
        requested = self.requested_fields

        def ask(rows: slice) -> Callable[[RemoteTeacher], dict[str, Tensor]]:
            shown, prompts = obs[rows], instructions[rows]
            action = None if student_action is None else student_action[rows]

            def work(replica: RemoteTeacher) -> dict[str, Tensor]:
                replica.requested_fields = requested
                return replica.label(shown, prompts, action).tensors()

            return work

        parts = self._ask(ask, len(instructions), self.is_stateful)
        return TeacherOutput(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Request actions [N, A], which may differ from the mean of the labels; see `label`."""

        def ask(rows: slice) -> Callable[[RemoteTeacher], Tensor]:
            shown, prompts = obs[rows], instructions[rows]
            return lambda replica: replica.act(shown, prompts)

        return torch.cat(self._ask(ask, len(instructions), self.has_memory))

    def reset(self, mask: Tensor) -> None:
        """Mark ended episodes on the replicas of their rows; a dropped replica has no memory left."""
        if self.has_memory:
            blocks = self._blocks(len(mask))
            asked = {i: (lambda replica, part=mask[rows]: replica.reset(part)) for i, rows in blocks.items()}
            _results(self._dispatcher.submit_to(i, work, skip_dropped=True) for i, work in asked.items())

    def seed(self, seed: int) -> None:
        """Seed the random state of every replica; each has random numbers of its own."""
        self._seed = seed
        self._everywhere(self._seed_replica, skip_dropped=True)

    def _seed_replica(self, index: int, replica: RemoteTeacher) -> None:
        if self._seed is not None:
            replica.seed(seed_of(self._seed, index, replica.client.connections))

    def _restore(self, replica: RemoteTeacher) -> None:
        """Connect again; the client refuses another policy than before."""
        replica.client.request({"request": "check", "spec": self._spec.model_dump(mode="json")})
        self._seed_replica(self.replicas.index(replica), replica)
        if self.has_memory:
            LOG.warning(f"policy server {replica.client.url}: its memory of the running episodes is lost")

    def _everywhere(self, work: Callable[[int, RemoteTeacher], None], skip_dropped: bool = False) -> None:
        def of(index: int) -> Callable[[RemoteTeacher], None]:
            return lambda replica: work(index, replica)

        _results([self._dispatcher.submit_to(i, of(i), skip_dropped) for i in range(len(self.replicas))])

    def _ask(self, ask: Callable[[slice], Callable[[RemoteTeacher], T]], rows: int, sticky: bool) -> list[T]:
        """Results of the parts of a batch, in the order of its rows."""
        if sticky:
            return _results([self._dispatcher.submit_to(i, ask(part)) for i, part in self._blocks(rows).items()])
        most = min(replica.max_rows for replica in self.replicas)
        return _results([self._dispatcher.submit(ask(part)) for part in split(rows, len(self.replicas), most, self._rows)])

    def _blocks(self, rows: int) -> dict[int, slice]:
        """Rows of each replica, of a policy with memory; by its number."""
        bounds = [math.ceil(i * rows / len(self.replicas)) for i in range(len(self.replicas) + 1)]
        return {i: slice(*pair) for i, pair in enumerate(itertools.pairwise(bounds)) if pair[0] < pair[1]}


def split(rows: int, replicas: int, most: int, size: int | None = None) -> list[slice]:
    """Parts of a batch, a function of its size and the number of replicas alone, so that a run can be repeated.

    Args:
        rows: size of the batch.
        replicas: number of replicas, with the lost ones.
        most: maximum rows of a request.
        size: rows of a part; None: `PARTS` parts per replica, see also `SMALL`.
    """
    size = min(size or max(math.ceil(rows / (PARTS * replicas)), SMALL), math.ceil(rows / replicas), most)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def seed_of(seed: int, index: int, connection: int) -> int:
    """Seed of a replica: other random numbers on each, and after each new connection."""
    if (index, connection) == (0, 1):
        return seed
    return int(np.random.SeedSequence((seed, index, connection)).generate_state(1, np.uint64)[0]) >> 2


def check_same_policy(clients: Sequence[Client]) -> None:
    """Check that servers are replicas of one policy.

    Raises:
        ConfigError: names the first difference, and both sides.
    """
    first = clients[0]
    for other in clients[1:]:
        if (found := _difference(first.metadata, other.metadata)) is not None:
            names = [f"{client.url} ({client.metadata.get('name')})" for client in (first, other)]
            raise ConfigError(f"policy servers {' and '.join(names)} are no replicas of one policy: {found}")


def _difference(first: Message, other: Message) -> str | None:
    """Describe the first difference of two servers' metadata; None: they serve the same policy."""
    pair = first.get("identity"), other.get("identity")
    if None in pair:  # e.g. behind openpi's server: the name is all there is
        pair = first.get("name"), other.get("name")
    if pair[0] != pair[1]:
        return f"they serve {_short(pair[0])} and {_short(pair[1])}"
    for key in sorted({*first, *other} - {*OWN, "identity"}):
        if (found := _differing(key, first.get(key), other.get(key))) is not None:
            return found
    return None


def _differing(key: str, first: Any, other: Any) -> str | None:
    if isinstance(first, dict) and isinstance(other, dict):
        found = (_differing(f"{key}.{name}", first.get(name), other.get(name)) for name in sorted({*first, *other}))
        return next((text for text in found if text is not None), None)
    same = encode({"value": first}) == encode({"value": other})
    return None if same else f"{key} is {_short(first)} and {_short(other)}"


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:40]}..."


def _results(futures: Iterable[Future[T]]) -> list[T]:
    """Wait for all results; on an error, cancel the requests that have not begun."""
    waiting = list(futures)
    try:
        return [future.result() for future in waiting]
    except BaseException:
        for future in waiting:
            future.cancel()
        raise
