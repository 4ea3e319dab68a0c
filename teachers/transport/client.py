"""Client of a policy server, ours or openpi's, with reconnection.

    client = Client("ws://127.0.0.1:8000")
    action = client.request({"state": state, "image.front": image, "prompt": "pick up the cube"})["actions"][0]

Needs no torch, so that it runs in the process of a robot driver.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from rpd.envs.errors import ConfigError, ServerLost, missing_package
from rpd.teachers.transport import TOKEN_VARIABLE
from rpd.teachers.transport.codec import MalformedMessage, Message, array_bytes, decode, encode
from rpd.teachers.transport.shared_memory import OwnBlock

try:
    from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException
    from websockets.sync.client import ClientConnection, connect
except ImportError:
    raise missing_package("a policy server or its client", "msgpack and websockets", "serve") from None

PROTOCOL = "rpd/4"
HOW_TO_SEND = f"add token_file=FILE, or set {TOKEN_VARIABLE}"
MAX_REPLY = 256 * 2**20  # bytes
ANSWER_ROOM = 2**20  # bytes of shared memory for an answer, in addition to the size of the request


class ConnectionFailed(ServerLost):
    """No answer after all retries: the server is gone.

    Attributes:
        reason: the message without the address and the retries.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ServerChanged(ConnectionFailed):
    """The server at the address serves another policy now, or no longer accepts the token."""


class _Lost(Exception):
    """The connection is unusable; the message gives the reason."""


class _Denied(Exception):
    """The server rejected the token."""


class Client:
    """One connection, one request at a time.

    Attributes:
        url: address of the server.
        metadata: metadata sent by the server on connection.
        connections: number of connections made; each starts with empty memory on the server.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        on_retry: Callable[[str], None] = lambda message: None,
        share: bool = True,
        remedy: str = HOW_TO_SEND,
        metadata: Message | None = None,
    ) -> None:
        """Connect. A failure to connect here is an error without retry; later failures are retried.

        Args:
            url: ``ws://host:port`` or ``wss://host:port``.
            token: access token, if the server requires one.
            timeout: seconds to wait for an answer.
            retries: how often a request without an answer is sent again, over a new connection.
            on_retry: called with a message before each retry.
            share: pass large arrays through shared memory if the server can open it.
            remedy: how to send a token, for the error message of a server that requires one.
            metadata: metadata of an earlier connection to this server: connect only for the first request.

        Raises:
            ConfigError: no server at the address, another kind of server, or a wrong token.
        """
        self.url, self.timeout, self.retries, self.on_retry = url, timeout, retries, on_retry
        self._token, self._remedy, self.connections = token, remedy, 0
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._open = contextlib.ExitStack()
        self._socket: ClientConnection | None = None
        self._block: OwnBlock | None = None
        self._share, self._shares = share, False
        self.metadata: Message = metadata or {}
        if not url.startswith(("ws://", "wss://")):
            raise ConfigError(f"policy server '{url}': write its address as ws://host:port")
        if metadata is not None:
            return
        try:
            self._connect()
        except _Lost as error:
            self.close()
            raise ConfigError(f"no policy server at {url} ({error}): start one with `rpd serve`") from None
        except _Denied:
            raise ConfigError(f"policy server {url}: {_wrong_token(token, remedy)}") from None

    def another(self, lazy: bool = False) -> Client:
        """Open a second connection to the same server, with its own memory.

        Args:
            lazy: connect only for the first request, so that a server that is gone is no error here.

        Raises:
            ConfigError: the server is gone.
        """
        metadata = self.metadata if lazy else None
        return Client(self.url, self._token, self.timeout, self.retries, self.on_retry, self._share, self._remedy, metadata)

    def request(self, message: Message) -> Message:
        """Send a request and return the answer.

        Args:
            message: an observation, or one of the requests in docs/serving.md.

        Raises:
            ConnectionFailed: no answer, after all retries; or see `ServerChanged`.
            ServerLost: the answer is an error, or the request is too large.
        """
        for attempt in range(self.retries + 1):
            try:
                if self._socket is None:
                    self._connect()
                answer = self._exchange(message, self._arena(message))
                break
            except _Denied:
                raise self._changed("the token is no longer accepted") from None
            except _Lost as error:
                self.close()
                if attempt == self.retries:
                    failed = f"policy server {self.url}: no answer after {attempt} retries ({error})"
                    raise ConnectionFailed(failed, str(error)) from None
                delay = min(0.5 * 2**attempt, 8.0)
                self.on_retry(f"policy server {self.url}: {error}; retry {attempt + 1} of {self.retries} in {delay:g} s")
                time.sleep(delay)
            except BaseException:  # a late answer must not be taken for that of the next request
                self.close()
                raise
        if isinstance(answer, str):  # openpi sends a traceback
            raise ServerLost(f"policy server {self.url} answers: {(answer.strip() or 'error').splitlines()[-1]}")
        return answer

    def close(self) -> None:
        """Close the connection; the next request connects again."""
        with contextlib.suppress(OSError, WebSocketException):
            self._open.close()
        if self._block is not None:
            self._block.close()
        self._socket = self._block = None

    def _connect(self) -> None:
        """Connect and read the metadata.

        Raises:
            ServerChanged: the server now serves another policy.
        """
        try:
            connection = connect(
                self.url, additional_headers=self._headers, compression=None, proxy=None, max_size=MAX_REPLY,
                open_timeout=self.timeout, close_timeout=1, ping_interval=None,  # no pings: openpi's server is busy
            )  # fmt: skip
            self._socket = self._open.enter_context(connection)
            wait = struct.pack("ll", int(self.timeout), int(self.timeout % 1 * 1e6))  # a struct timeval
            self._socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)  # recv has its own timeout
        except InvalidStatus as error:
            if error.response.status_code == 401:
                raise _Denied from None
            body = bytes(error.response.body or b"").decode("utf-8", "replace").strip()
            raise _Lost(f"HTTP {error.response.status_code} {body}") from None
        except InvalidURI:
            raise _Lost("not an address of the form ws://host:port") from None
        except (OSError, ValueError, WebSocketException) as error:
            raise _Lost(str(error) or type(error).__name__) from None
        metadata = self._receive(None)
        if isinstance(metadata, str):
            raise _Lost(f"it begins with text and not with metadata: {metadata[:80]!r}")
        if self.metadata and _identity(metadata) != _identity(self.metadata):
            self.close()
            names = (str(m.get("name", "a policy")) for m in (metadata, self.metadata))
            raise self._changed("it now serves {}, and not {} as before".format(*names))
        self.metadata = metadata
        self.connections += 1
        self._shares = self._share and metadata.get("shared_memory") is True

    def _changed(self, reason: str) -> ServerChanged:
        return ServerChanged(f"policy server {self.url}: {reason}", reason)

    def _exchange(self, message: Message, arena: OwnBlock | None) -> Message | str:
        """Send a request; return the answer, or the text of an error."""
        assert self._socket is not None
        if arena is not None:
            arena.used = 0
        data, limits = encode(message, arena), self.metadata.get("limits")
        most = limits.get("message_bytes") if isinstance(limits, dict) else None
        if isinstance(most, int) and len(data) > most:
            raise ServerLost(
                f"policy server {self.url}: a request of {len(data):,} bytes, and it takes {most:,}: "
                "ask about fewer observations, or start it with a larger --max-message-mb"
            )
        try:
            self._socket.send(data)
        except (OSError, WebSocketException) as error:
            raise _Lost(str(error)) from None
        return self._receive(arena)

    def _receive(self, arena: OwnBlock | None) -> Message | str:
        assert self._socket is not None
        try:
            frame = self._socket.recv(self.timeout)
            return frame if isinstance(frame, str) else decode(frame, arena)
        except TimeoutError:
            raise _Lost(f"no answer in {self.timeout:g} s") from None
        except MalformedMessage as error:
            raise _Lost(f"its answer cannot be read: {error}") from None
        except (OSError, WebSocketException) as error:
            raise _Lost(str(error)) from None

    def _arena(self, message: Message) -> OwnBlock | None:
        """Shared memory block of this connection, created when a request first needs one of this size."""
        need = array_bytes(message)
        if not self._shares or need <= (self._block.size if self._block else 0):
            return self._block
        if self._block is not None:
            self._block.close()
        self._block = None
        try:
            block = OwnBlock(2 * need + ANSWER_ROOM)
        except OSError:  # /dev/shm is full, as is common in containers: use the socket
            self._shares = False
            return None
        try:
            answer = self._exchange({"request": "memory", "name": block.name, "size": block.size}, None)
        except _Lost:
            block.close()
            raise
        finally:
            block.unlink()
        if isinstance(answer, str):  # the server cannot open our memory: another container
            block.close()
            self._shares = False
        else:
            self._block = block
        return self._block


def read_token(path: str | Path | None) -> str | None:
    """Return the token from a file, else from the environment variable ``RPD_SERVE_TOKEN``; None if neither exists.

    Raises:
        ConfigError: the file cannot be read, or its content is not a token.
    """
    if path is None and TOKEN_VARIABLE not in os.environ:
        return None
    try:
        token = os.environ[TOKEN_VARIABLE] if path is None else Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token file {path}: {getattr(error, 'strerror', 'not ASCII text')}") from None
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{TOKEN_VARIABLE if path is None else path}: a token is one word of ASCII characters")
    return token


def _identity(metadata: Message) -> bytes:
    """Metadata that must stay the same after a reconnection."""
    return encode({key: value for key, value in metadata.items() if key not in ("limits", "shared_memory")})


def _wrong_token(token: str | None, remedy: str) -> str:
    return "the token is not accepted" if token else f"a token is required: {remedy}"
