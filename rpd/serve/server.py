"""The websocket server: who is let in, how much they may send, and one thread in which the policy computes.

The event loop only moves bytes, so pings and ``/healthz`` are answered while the policy computes. Whatever a client
sends, the worst that comes of it is a text frame that says what was wrong, or a closed connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus

from envs.errors import ConfigError
from rpd.serve.service import PolicyService
from rpd.serve.status import Status
from teachers.wire import memory
from teachers.wire.codec import MalformedMessage, Message, decode, encode

try:
    from websockets.asyncio.server import Request, Response, ServerConnection, serve
    from websockets.exceptions import ConnectionClosed
except ImportError:
    raise ConfigError("policy servers and their clients need msgpack and websockets: pip install 'rpd[serve]'") from None

SHOWN_EVERY = 0.25  # seconds
BLOCK_ROOM = 4 * 2**20  # bytes that shared memory may have beside twice the largest message


@dataclass(frozen=True)
class Limits:
    """What one server puts up with."""

    message_bytes: int = 64 * 2**20
    """Largest message."""
    rate: float = 1000.0
    """Requests per second and client; who sends more waits."""
    clients: int = 32
    """Connections at a time."""


class Pace:
    """A token bucket: `rate` requests per second, and as many at once after a second of silence."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._left = max(rate, 1.0)
        self._at = time.monotonic()

    def wait(self) -> float:
        """Take one request; returns for how many seconds it has to wait."""
        now = time.monotonic()
        self._left = min(self._left + (now - self._at) * self.rate, max(self.rate, 1.0)) - 1
        self._at = now
        return max(-self._left / self.rate, 0.0)


class Peer:
    """What belongs to one connection."""

    def __init__(self, connection: ServerConnection, limits: Limits) -> None:
        self.connection = connection
        self.pace = Pace(limits.rate)
        self.local = memory.available() and is_loopback(str((connection.remote_address or [""])[0]))
        self.max_block = 2 * limits.message_bytes + BLOCK_ROOM
        self.block: memory.PeerBlock | None = None
        self.last_total: float | None = None
        """Seconds that the answer before took, sending included: openpi's clients may ask."""

    def share(self, message: Message) -> Message:
        """Open a block of the client's.

        Raises:
            ConfigError: there is none, or it may not be used.
        """
        name, size = message.get("name"), message.get("size")
        if not self.local:
            raise ConfigError("memory is only shared with clients on this machine")
        if type(name) is not str or type(size) is not int or not 0 < size <= self.max_block:
            raise ConfigError(f"memory: a name, and a size of at most {self.max_block:,} bytes")
        try:
            block = memory.PeerBlock(name, size)
        except ValueError as error:
            raise ConfigError(f"memory: {error}") from None
        self.close()
        self.block = block
        return {}

    def close(self) -> None:
        """Let go of the client's memory."""
        if self.block is not None:
            self.block.close()
        self.block = None


class PolicyServer:
    """Serves a policy until it is told to stop.

    Args:
        service: answers.
        host: address to listen on.
        port: 0 takes any free one.
        token: what clients have to send as ``Authorization: Bearer``; None lets everybody in.
        limits: see `Limits`.
        status: counts and shows.
    """

    def __init__(self, service: PolicyService, host: str, port: int, token: str | None, limits: Limits, status: Status) -> None:
        self.service, self.host, self.port = service, host, port
        self.token, self.limits, self.status = token, limits, status
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="policy")

    async def run(self, stop: asyncio.Event, on_ready: Callable[[int], None]) -> None:
        """Serve until `stop` is set; then finish the request that is being computed, and hang up.

        Args:
            stop: ends it.
            on_ready: told the port once clients can connect.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        quiet = logging.getLogger("rpd.serve.websockets")  # port scanners are no news
        quiet.disabled = True
        try:
            server = await serve(
                self._handle, self.host, self.port, compression=None, origins=[None], process_request=self._admit,
                max_size=self.limits.message_bytes, max_queue=1, close_timeout=1, logger=quiet,
            )  # fmt: skip
        except OSError as error:
            raise ConfigError(f"cannot listen on {self.host}:{self.port}: {error.strerror or error}") from None
        try:
            async with server:
                on_ready(server.sockets[0].getsockname()[1])
                while not stop.is_set():
                    self.status.update()
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(stop.wait(), SHOWN_EVERY)
        finally:
            self._worker.shutdown(cancel_futures=True)

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a health check, or refuse a connection; None lets it in. Browsers are refused by their Origin header."""
        if request.path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if self.token is not None and not _authorized(request.headers.get_all("Authorization"), self.token):
            self.status.refused += 1
            return connection.respond(HTTPStatus.UNAUTHORIZED, "a token is needed: Authorization: Bearer TOKEN\n")
        if self.status.clients >= self.limits.clients:
            self.status.refused += 1
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{self.limits.clients} clients already\n")
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        """Serve one client until it leaves."""
        peer = Peer(connection, self.limits)
        limits = {"message_bytes": self.limits.message_bytes, "requests_per_second": self.limits.rate}
        self.status.clients += 1
        try:
            await connection.send(encode({**self.service.metadata(), "limits": limits, "shared_memory": peer.local}))
            async for frame in connection:
                began = time.perf_counter()
                await asyncio.sleep(peer.pace.wait())
                answer = await asyncio.get_running_loop().run_in_executor(self._worker, self._answer, peer, frame)
                self.status.latencies.append(time.perf_counter() - began)
                self.status.requests += 1
                self.status.refused += isinstance(answer, str)
                await connection.send(answer)
                peer.last_total = time.perf_counter() - began
        except ConnectionClosed:
            pass
        finally:
            self.status.clients -= 1
            peer.close()

    def _answer(self, peer: Peer, frame: bytes | str) -> bytes | str:
        """Read a request, answer it, write the answer; or the text of what was wrong. In the worker thread."""
        if peer.block is not None:
            peer.block.used = 0
        try:
            if isinstance(frame, str):
                raise MalformedMessage("a text frame; requests are binary")
            message = decode(frame, peer.block)
            began = time.perf_counter()
            answer = peer.share(message) if message.get("request") == "memory" else self.service.answer(message)
            timing = {"infer_ms": 1000 * (time.perf_counter() - began)}
            if peer.last_total is not None:
                timing["prev_total_ms"] = 1000 * peer.last_total
            return encode({**answer, "server_timing": timing}, peer.block)
        except MalformedMessage as error:
            return f"malformed message: {error}"
        except ConfigError as error:
            return " ".join(str(error).split())
        except Exception as error:  # whatever the policy has to complain of, other requests may be better
            text = f"{self.service.name} failed: {type(error).__name__}: {' '.join(str(error).split())[:400]}"
            self.status.say(text)
            return text


def is_loopback(host: str) -> bool:
    """Whether an address belongs to this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _authorized(headers: list[str], token: str) -> bool:
    """Compare in constant time. openpi's client calls the scheme Api-Key."""
    scheme, _, given = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())
    return same and scheme.lower() in ("bearer", "api-key")
