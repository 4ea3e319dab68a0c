"""State of one connection: rate limit, session, and shared memory."""

from __future__ import annotations

import ipaddress
import time
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rpd.envs.errors import ConfigError
from rpd.teachers.transport import shared_memory
from rpd.teachers.transport.codec import Message, as_int

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from rpd.serve.sessions import Session

BLOCK_ROOM = 4 * 2**20  # bytes of shared memory in addition to twice the largest message


@dataclass(frozen=True)
class Limits:
    """Limits of a server."""

    message_bytes: int = 64 * 2**20
    """Largest message, bytes."""
    rate: float = 1000.0
    """Requests per second and client; further requests wait."""
    clients: int = 32
    """Maximum number of simultaneous connections."""


class RateLimiter:
    """Token bucket: `rate` requests per second, and a burst of the same number after one idle second."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._left = max(rate, 1.0)
        self._at = time.monotonic()

    def wait(self) -> float:
        """Consume one request; returns the time it has to wait, s."""
        now = time.monotonic()
        self._left = min(self._left + (now - self._at) * self.rate, max(self.rate, 1.0)) - 1
        self._at = now
        return max(-self._left / self.rate, 0.0)


class Peer:
    """State of one connection.

    Args:
        connection: connection to the client.
        session: the client's session.
        worker: executor of its requests.
        limits: see `Limits`.
    """

    def __init__(self, connection: ServerConnection, session: Session, worker: Executor, limits: Limits) -> None:
        self.connection, self.session, self.worker = connection, session, worker
        self.rate_limiter = RateLimiter(limits.rate)
        self.local = shared_memory.available() and is_loopback(str((connection.remote_address or [""])[0]))
        self.max_block = 2 * limits.message_bytes + BLOCK_ROOM
        self.block: shared_memory.PeerBlock | None = None
        self.last_total: float | None = None
        """Duration of the previous answer including sending, s; reported to openpi's clients."""

    def share(self, message: Message) -> Message:
        """Attach a shared-memory block of the client.

        Raises:
            ConfigError: the block does not exist or may not be used.
        """
        name, size = message.get("name"), as_int(message.get("size"))
        if not self.local:
            raise ConfigError("memory is only shared with clients on this machine")
        if type(name) is not str or type(size) is not int or not 0 < size <= self.max_block:
            raise ConfigError(f"memory: a name, and a size of at most {self.max_block:,} bytes")
        try:
            block = shared_memory.PeerBlock(name, size)
        except ValueError as error:
            raise ConfigError(f"memory: {error}") from None
        self._close_block()
        self.block = block
        return {}

    def close(self) -> None:
        """Release the client's shared memory and session."""
        self._close_block()
        self.session.close()

    def _close_block(self) -> None:
        if self.block is not None:
            self.block.close()
        self.block = None


def is_loopback(host: str) -> bool:
    """Whether an address is local to this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
