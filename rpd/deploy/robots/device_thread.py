"""A driver's calls in threads of their own: the control loop never waits for an SDK longer than a fraction of a period."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from rpd.core.unclosed import UNCLOSED
from rpd.deploy.robots.base import Array, RobotDriver, RobotLost, RobotState
from rpd.envs.errors import ConfigError

LOG = logging.getLogger(__name__)
PATIENCE = 0.25
"""Longest wait for a call, as a fraction of a period; a call that takes longer is read in a later tick."""
SETTLE = 0.02
"""Time that the stop command waits for a call in progress, s: SDKs expect one call at a time."""
SECOND_STOP_AFTER = 0.1
"""Time after which a stop command that has not returned is followed by `SecondStop.stop_otherwise`, s."""
POLL = 0.002  # s
STOP_TIMEOUT, CONNECT_TIMEOUT, CLOSE_TIMEOUT = 0.3, 60.0, 5.0
"""Time after which a stop command counts as refused, and connecting and closing are given up, s."""


@runtime_checkable
class SecondStop(Protocol):
    """A driver with a further means to stop the robot."""

    def stop_otherwise(self) -> None:
        """Stop the robot through another connection than the SDK's, e.g. when a call of the SDK blocks.

        Raises:
            RobotLost: the command was not accepted.
        """


class Attempt:
    """A call in a daemon thread of its own.

    Attributes:
        error: exception of the call, or None.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        """Start the call."""
        self.error: BaseException | None = None
        self._call, self._done = call, threading.Event()
        threading.Thread(target=self._run, daemon=True, name="device call").start()

    @property
    def ended(self) -> bool:
        """Whether the call has ended."""
        return self._done.is_set()

    @property
    def succeeded(self) -> bool:
        """Whether the call has returned without an exception."""
        return self._done.is_set() and self.error is None

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the call; return whether it has ended."""
        return self._done.wait(max(0.0, seconds))

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self.error = error
        self._done.set()


class DeviceThread:
    """A driver, called from a thread of its own; itself a `RobotDriver`.

    `read` and `command` wait for the SDK for at most `PATIENCE` of a period. While a call blocks, `read` returns the newest
    state, which grows old. `stop` is bounded by `STOP_TIMEOUT` and does not wait for a call that blocks.

    Args:
        driver: the driver, not connected.
        period: time between the loop's ticks, s.
        deadline: age of the newest state from which a call that has not returned is an error, s.
    """

    def __init__(self, driver: RobotDriver, period: float, deadline: float) -> None:
        self.driver, self.spec, self.resets = driver, driver.spec, driver.resets
        self._patience, self._deadline = PATIENCE * period, deadline
        self._changed = threading.Condition()
        self._pending: dict[str, Callable[[], None]] = {}  # the newest call of each name that has not started
        self._running: tuple[str, float] | None = None  # name and start of the call in progress
        self._state: RobotState | None = None
        self._error: BaseException | None = None
        self._stopping = self._overtaken = self._closed = False
        self._stops: list[Attempt] = []
        self._stop_lock = threading.Lock()

    def connect(self) -> None:
        """See `RobotDriver`; an SDK that does not return within `CONNECT_TIMEOUT` is an error.

        Raises:
            ConfigError: also if the SDK does not return.
        """
        attempt = Attempt(self.driver.connect)
        if not attempt.wait(CONNECT_TIMEOUT):
            raise ConfigError(f"robot {self.spec.name}: connecting has taken {CONNECT_TIMEOUT:g} s: does it answer?")
        if attempt.error is not None:
            raise attempt.error
        threading.Thread(target=self._run, daemon=True, name="device").start()

    def read(self) -> RobotState:
        """Return the newest measurement, see `RobotDriver`.

        Raises:
            RobotLost: also if a call has not returned and the newest measurement is older than the deadline.
        """
        self._submit("read", self._take, self._patience if self._state is not None else self._deadline)
        now = time.monotonic()
        with self._changed:
            running, state = self._running, self._state
        if running is not None and (state is None or now - state.time > self._deadline):
            name, began = running
            waited = f"{1000 * (now - began):.0f} ms"
            raise RobotLost(f"robot {self.spec.name}: it does not answer: '{name}' of its SDK has not returned for {waited}")
        if state is None:
            raise RobotLost(f"robot {self.spec.name}: no measurement within {1000 * self._deadline:.0f} ms")
        return state

    def command(self, joints: Array, gripper: float | None) -> None:
        """See `RobotDriver`; a command that has not started yet is replaced by this one."""
        self._submit("command", lambda: self.driver.command(joints, gripper), self._patience)

    def stop(self) -> None:
        """Stop the robot by the driver's `stop`, and by `SecondStop.stop_otherwise` if that fails or takes too long.

        Raises:
            RobotLost: no stop command has returned within `STOP_TIMEOUT`, or the reason why the last one was refused.
        """
        with self._changed:
            self._stopping = True
            self._pending.clear()
            self._overtaken |= not self._changed.wait_for(lambda: self._running is None, SETTLE)
        with self._stop_lock:
            self._stop()

    def close(self) -> None:
        """See `RobotDriver`; an SDK that blocks or fails is left as it is: the robot has been stopped before."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        attempt = Attempt(self.driver.close)
        if not attempt.wait(CLOSE_TIMEOUT):
            UNCLOSED.append(self)
            LOG.warning(f"robot {self.spec.name}: its connection does not close, and is left open")
        elif attempt.error is not None:
            UNCLOSED.append(self)
            LOG.warning(f"robot {self.spec.name}: its connection does not close: {attempt.error}")

    def _stop(self) -> None:
        """Send the stop commands; see `stop`."""
        began = time.monotonic()
        if not self._stops or self._stops[0].ended:  # else it is blocked since an earlier attempt
            self._stops = [Attempt(self.driver.stop)]
        if self._stops[0].wait(SECOND_STOP_AFTER) and self._stops[0].succeeded:
            return
        if isinstance(self.driver, SecondStop):
            self._stops[1:] = [Attempt(self.driver.stop_otherwise)]
        while not any(attempt.succeeded for attempt in self._stops):
            if time.monotonic() > began + STOP_TIMEOUT or all(attempt.ended for attempt in self._stops):
                raise self._refusal()
            time.sleep(POLL)

    def _refusal(self) -> BaseException:
        """Return the reason why no stop command succeeded."""
        errors = [attempt.error for attempt in self._stops if attempt.error is not None]
        waited = f"{1000 * STOP_TIMEOUT:.0f} ms"
        late = f"robot {self.spec.name}: the stop command has not returned for {waited}: use its emergency stop"
        return errors[0] if errors else RobotLost(late)

    def _submit(self, name: str, call: Callable[[], None], seconds: float) -> None:
        """Have the thread run a call, and wait for it, but not if a call has been running for that long already.

        Raises:
            BaseException: the error of this or an earlier call.
        """
        with self._changed:
            if not self._stopping or name != "command":
                self._pending[name] = call
                self._changed.notify_all()
            if self._running is not None:
                seconds -= time.monotonic() - self._running[1]
            self._changed.wait_for(lambda: self._error is not None or self._ended(name), max(0.0, seconds))
            error, self._error = self._error, None
        if error is not None:
            raise error

    def _ended(self, name: str) -> bool:
        return name not in self._pending and (self._running is None or self._running[0] != name)

    def _take(self) -> None:
        state = self.driver.read()
        with self._changed:
            self._state = state

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(self._pending))
                if self._closed:
                    return
                name = "command" if "command" in self._pending else "read"
                call = self._pending.pop(name)
                self._running = name, time.monotonic()
            error: BaseException | None = None
            try:
                call()
            except BaseException as raised:
                error = raised
            with self._changed:
                self._running, self._error = None, error or self._error
                again = self._overtaken and name == "command"
                self._changed.notify_all()
            if again:  # the robot was stopped while this command was blocked: it may move again
                Attempt(self.stop)
