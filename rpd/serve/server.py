"""Websocket server: authorization, limits, and one thread for the policy.

The event loop only transfers bytes, so pings and ``/healthz`` are answered during computation. A request with many observations
is computed in steps, between which other clients have their turn. An invalid request results at most in a text frame with the
error, or a closed connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

from rpd.envs.errors import ConfigError, missing_package
from rpd.serve.peer import Limits, Peer
from rpd.serve.service import PolicyService
from rpd.serve.status import Status
from rpd.teachers.transport.codec import MalformedMessage, Message, decode, encode

try:
    from websockets.asyncio.server import Request, Response, ServerConnection, serve
    from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
    from websockets.protocol import State
except ImportError:
    raise missing_package("a policy server or its client", "msgpack and websockets", "serve") from None

SHOWN_EVERY = 0.25  # period of status updates, s


class PolicyServer:
    """Serves a policy until stopped.

    Args:
        service: answers requests.
        host: address to listen on.
        port: port; 0 selects a free one.
        token: required ``Authorization: Bearer`` token of clients; None: no authorization.
        limits: see `Limits`.
        status: counts and displays requests.
    """

    def __init__(self, service: PolicyService, host: str, port: int, token: str | None, limits: Limits, status: Status) -> None:
        self.service, self.host, self.port = service, host, port
        self.token, self.limits, self.status = token, limits, status
        self._worker = _worker()

    async def run(self, stop: asyncio.Event, on_ready: Callable[[int], None]) -> None:
        """Serve until `stop` is set; then finish the current request and close all connections.

        Args:
            stop: event that ends serving.
            on_ready: called with the port when clients can connect.

        Raises:
            ConfigError: cannot listen on the address.
        """
        quiet = logging.getLogger("rpd.serve.websockets")  # would report port scans
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
        """Answer a health check, or reject a connection; None accepts it. Browsers are rejected by their Origin header."""
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
        """Serve one client until it disconnects."""
        session = self.service.open(lambda: connection.state is State.OPEN)
        # A policy that waits for another server gets a thread per client, so that it does not block the others.
        own = _worker() if self.service.accepts_concurrent_requests else None
        peer = Peer(connection, session, own or self._worker, self.limits)
        limits = {
            "message_bytes": self.limits.message_bytes, "requests_per_second": self.limits.rate, "rows": self.service.max_rows
        }  # fmt: skip
        self.status.clients += 1
        try:
            await connection.send(encode({**self.service.metadata(), "limits": limits, "shared_memory": peer.local}))
            async for frame in connection:
                began = time.perf_counter()
                await asyncio.sleep(peer.rate_limiter.wait())
                answer = await self._in_turns(peer, self._steps(peer, frame))
                self.status.latencies.append(time.perf_counter() - began)
                self.status.requests += 1
                self.status.refused += isinstance(answer, str)
                await connection.send(answer)
                peer.last_total = time.perf_counter() - began
        except ConnectionClosed:
            pass
        finally:
            self.status.clients -= 1
            await asyncio.get_running_loop().run_in_executor(peer.worker, peer.close)
            if own is not None:
                own.shutdown(wait=False)

    async def _in_turns(self, peer: Peer, steps: Iterator[bytes | str | None]) -> bytes | str:
        """Compute step by step while the client is connected.

        The worker runs steps in order of submission, so each waits for at most one step of every other client.
        """
        loop = asyncio.get_running_loop()
        while (answer := await loop.run_in_executor(peer.worker, next, steps)) is None:
            if peer.connection.state is not State.OPEN:
                raise ConnectionClosedOK(None, None)
        return answer

    def _steps(self, peer: Peer, frame: bytes | str) -> Iterator[bytes | str | None]:
        """Decode a request, answer it, encode the answer, or the error as text. Runs in the worker thread."""
        if peer.block is not None:
            peer.block.used = 0
        try:
            if isinstance(frame, str):
                raise MalformedMessage("a text frame; requests are binary")
            message = decode(frame, peer.block)
            began = time.perf_counter()
            answer: Message | None = None
            if message.get("request") == "memory":
                answer = peer.share(message)
            else:
                for answer in self.service.answer(peer.session, message):
                    if answer is None:
                        yield None
            assert answer is not None
            timing = {"infer_ms": 1000 * (time.perf_counter() - began)}
            if peer.last_total is not None:
                timing["prev_total_ms"] = 1000 * peer.last_total
            yield encode({**answer, "server_timing": timing}, peer.block)
        except MalformedMessage as error:
            yield f"malformed message: {error}"
        except ConfigError as error:
            yield " ".join(str(error).split())
        except Exception as error:  # a failure of one request does not end the server
            text = f"{self.service.name} failed: {type(error).__name__}: {' '.join(str(error).split())[:400]}"
            self.status.log(text)
            yield text


def _worker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="policy")


def _authorized(headers: list[str], token: str) -> bool:
    """Compare in constant time. openpi's client names the scheme Api-Key."""
    scheme, _, given = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())
    return same and scheme.lower() in ("bearer", "api-key")
