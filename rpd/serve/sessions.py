"""State of a stateful policy per client: one session per connection, one memory per environment and slice of rows."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rpd.envs.errors import ConfigError
from rpd.teachers.base import Teacher

Environment = str | int | None
"""Client's id of an environment; None: it has one, or sends all of them as rows."""
CLIENTS_WITH_ALL_ROWS = 4
"""Default number of clients with the maximum number of rows that can have state at a time."""
EXCLUSIVE = "keeps state that cannot be kept apart for several clients"


class Memory:
    """Teachers for the rows of one client, `size` rows each; row i is environment i in every call.

    Args:
        new_teacher: builds a teacher with empty state.
        size: rows per teacher.

    Attributes:
        parts: the teachers created so far.
        rows: number of rows with state; 0: none.
        steps: calls since the last reset.
        is_torn: whether the last answer failed midway, so that only some rows have advanced.
    """

    def __init__(self, new_teacher: Callable[[], Teacher], size: int) -> None:
        self._new_teacher, self._size, self._seed = new_teacher, size, 0
        self.parts: list[Teacher] = []
        self.rows = self.steps = 0
        self.is_torn = False

    @contextlib.contextmanager
    def answering(self, rows: int) -> Iterator[None]:
        """Context of the computation of one answer: after a failure, the next answer starts with empty state.

        Otherwise rows that had advanced would count an observation twice when it is sent again.
        """
        if self.is_torn:
            self.reset(torch.ones(rows, dtype=torch.bool))
        self.is_torn = True
        yield
        self.is_torn = False

    def slices(self, rows: int) -> Iterator[tuple[slice, Teacher]]:
        """Split `rows` rows into slices, each with its teacher."""
        for i, start in enumerate(range(0, rows, self._size)):
            while len(self.parts) <= i:
                self._add()
            yield slice(start, min(start + self._size, rows)), self.parts[i]

    def reset(self, mask: Tensor) -> None:
        """Start new episodes where mask [N] is True; state of rows beyond N is dropped."""
        parts = mask.split(self._size)
        for part, rows in zip(self.parts, parts, strict=False):
            part.reset(rows.to(part.device))
        for part in self.parts[len(parts) :]:
            part.reset(torch.ones(self._size, dtype=torch.bool, device=part.device))
        self.steps = 0

    def seed(self, seed: int) -> None:
        """Reseed the randomness; slices use different seeds."""
        self._seed = seed
        for i, part in enumerate(self.parts):
            part.seed(seed + i)

    def _add(self) -> None:
        part, seed = self._new_teacher(), self._seed + len(self.parts)
        if seed:  # 0 is the initial seed of a teacher
            part.seed(seed)
        self.parts.append(part)


class Session:
    """One client connection.

    Args:
        pool: pool of all connections.
        is_open: returns whether the client is connected.
    """

    def __init__(self, pool: SessionPool, is_open: Callable[[], bool]) -> None:
        self._pool, self.is_open = pool, is_open
        self.was_refused = False
        self._memories: dict[Environment, Memory] = {}

    def memory(self, environment: Environment = None) -> Memory:
        """Return the memory of one of the client's environments; created on first use.

        Raises:
            ConfigError: another client holds an exclusive policy, or this client uses a second environment of it.
        """
        self._pool.claim(self)
        if environment not in self._memories:
            self._memories = {name: memory for name, memory in self._memories.items() if memory.rows or memory.parts}
            if self._memories and self._pool.is_exclusive:
                raise ConfigError(f"env_id: {self._pool.name} {EXCLUSIVE} or environments: ask about one")
            self._memories[environment] = self._pool.new_memory()
        return self._memories[environment]

    def expect(self, memory: Memory, rows: int) -> None:
        """Check that `rows` matches the rows of `memory`, or reserve them.

        Raises:
            ConfigError: the number of rows has changed, or see `_reserve`.
        """
        if memory.rows not in (0, rows):
            raise ConfigError(
                f"{self._pool.name} remembers {memory.rows} environments of this client, and {rows} are asked about: "
                "send a reset with a mask of that length first, or open a new connection"
            )
        self._reserve(memory, rows)

    def reset(self, mask: Tensor, memory: Memory) -> None:
        """Start new episodes where mask [N] is True; N may differ from before.

        Raises:
            ConfigError: see `_reserve`.
        """
        self._reserve(memory, len(mask))
        memory.reset(mask)

    def seed(self, seed: int) -> None:
        """Reseed the randomness in all of the client's environments."""
        self.memory()
        for memory in self._memories.values():
            memory.seed(seed)

    def close(self) -> None:
        """Drop all state."""
        for memory in self._memories.values():
            self._pool.release(memory)
        self._memories.clear()

    def _reserve(self, memory: Memory, rows: int) -> None:
        """Reserve the rows of a memory.

        Raises:
            ConfigError: the limit of one client, or of all clients together, is exceeded.
        """
        total = sum(other.rows for other in self._memories.values()) - memory.rows + rows
        if total > self._pool.max_rows:
            raise ConfigError(
                f"{self._pool.name} would remember {total} environments of this client, and the limit is "
                f"{self._pool.max_rows}: serve with a larger --max-rows"
            )
        self._pool.reserve(memory, rows)


class SessionPool:
    """Sessions of all clients of one teacher.

    Args:
        teacher: the served teacher. It answers itself only if it cannot, or need not, open sessions (`Teacher.new_session`).
        name: name of the policy, for messages.
        max_rows: maximum rows with state per client.
        warn: called with warnings for the operator.
        max_total_rows: maximum rows with state over all clients; None: `CLIENTS_WITH_ALL_ROWS` times `max_rows`.
    """

    def __init__(
        self, teacher: Teacher, name: str, max_rows: int, warn: Callable[[str], None], max_total_rows: int | None = None
    ) -> None:
        self.max_total_rows = CLIENTS_WITH_ALL_ROWS * max_rows if max_total_rows is None else max_total_rows
        self.name, self.max_rows, self._teacher, self._warn = name, max_rows, teacher, warn
        self._holder: Session | None = None
        self._spare = teacher.new_session()
        self.is_exclusive = self._spare is None
        self._rows = self._last_rows = 0
        self._lock = threading.Lock()

    def new_memory(self) -> Memory:
        """Return an empty memory, sliced unless no other client would wait."""
        alone = self.is_exclusive or self._teacher.runs_remotely
        return Memory(self._new_teacher, self.max_rows if alone else min(self._teacher.rows_at_once, self.max_rows))

    def claim(self, session: Session) -> None:
        """Assign an exclusive teacher, reset, to a client, unless another client holds it.

        Raises:
            ConfigError: another client holds it.
        """
        if not self.is_exclusive or self._holder is session:
            return
        if self._holder is not None and self._holder.is_open():
            message = f"{self.name} {EXCLUSIVE}, and another one is connected: wait until it leaves, or start a second server"
            if not session.was_refused:
                self._warn(f"refused a client: {message}")
            session.was_refused = True
            raise ConfigError(message)
        if self._holder is not None:
            self._teacher.reset(torch.ones(self._last_rows or 1, dtype=torch.bool, device=self._teacher.device))
            self._teacher.seed(0)
        self._holder = session

    def reserve(self, memory: Memory, rows: int) -> None:
        """Reserve the rows of a memory.

        Raises:
            ConfigError: the limit is exceeded.
        """
        with self._lock:
            total = self._rows - memory.rows + rows
            if total > self.max_total_rows:
                raise ConfigError(
                    f"{self.name} would remember {total} environments of all clients together, and the limit is "
                    f"{self.max_total_rows}: serve with a larger --max-total-rows"
                )
            self._rows, self._last_rows, memory.rows = total, rows, rows

    def release(self, memory: Memory) -> None:
        """Release a memory."""
        with self._lock:
            self._rows -= memory.rows
        for part in memory.parts:
            if part is not self._teacher:
                part.close()

    def _new_teacher(self) -> Teacher:
        with self._lock:
            spare, self._spare = self._spare, None
        session = spare or self._teacher.new_session() or self._teacher
        session.name, session.space = self._teacher.name, self._teacher.space
        return session
