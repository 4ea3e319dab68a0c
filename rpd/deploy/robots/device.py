"""A real robot's driver in a process of its own: the control loop survives an SDK that blocks, hangs or crashes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from rpd.core.link import Child, LinkLost
from rpd.deploy.config import RobotConfig
from rpd.deploy.robots.base import Array, RobotDriver, RobotLost, RobotState, SecondStop
from rpd.deploy.robots.device_process import CONFIG
from rpd.envs.errors import ConfigError, RunFault
from rpd.teachers.transport.codec import Message

LOG = logging.getLogger(__name__)
PATIENCE = 0.25
"""Longest wait for a call, as a fraction of a period; a call that takes longer is read in a later tick."""
SECOND_STOP_AFTER = 0.1
"""Time after which a stop command that has not returned is followed by `SecondStop.stop_otherwise`, s."""
POLL = 0.002  # s
STOP_TIMEOUT, CONNECT_TIMEOUT, CLOSE_TIMEOUT = 0.3, 60.0, 5.0
"""Time after which a stop command counts as refused, and connecting and closing are given up, s."""
END_TIMEOUT = 0.02  # longest wait for the exit code of a process whose link is closed, s


class Attempt:
    """A call in a daemon thread of its own.

    Attributes:
        error: exception of the call, or None.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        """Start the call."""
        self.error: BaseException | None = None
        self._call, self._done = call, threading.Event()
        threading.Thread(target=self._run, daemon=True, name="stop").start()

    @property
    def ended(self) -> bool:
        """Whether the call has ended."""
        return self._done.is_set()

    @property
    def succeeded(self) -> bool:
        """Whether the call has returned without an exception."""
        return self._done.is_set() and self.error is None

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self.error = error
        self._done.set()


class DeviceProcess:
    """A driver, called in a process of its own (`rpd.deploy.robots.device_process`); itself a `RobotDriver`.

    `read` and `command` wait for the SDK for at most `PATIENCE` of a period. While a call blocks, `read` returns the newest
    state, which grows old. `stop` is bounded by `STOP_TIMEOUT`; if the process does not take it, `SecondStop.stop_otherwise` is
    called in this one. If this process ends, the other one stops the robot.

    Args:
        driver: the driver, for its spec and its second stop; never connected.
        config: config of the robot.
        host: address that overrides the file's.
    """

    def __init__(self, driver: RobotDriver, config: RobotConfig, host: str | None) -> None:
        self.driver, self.spec, self.resets = driver, driver.spec, driver.resets
        self._order: Message = {"config": config.model_dump_json(), "host": host}
        self._patience, self._deadline = PATIENCE / config.rate, config.watchdog.observation_age
        self._child: Child | None = None
        self._number = 0
        self._asked: dict[str, list[tuple[int, float]]] = {}  # by name: number and time of each order without an answer
        self._stop_answer: Message | None = None
        self._state: RobotState | None = None
        self._errors: dict[str, RunFault | ConfigError] = {}  # by name of the order
        self._second: Attempt | None = None
        self._stopping = False

    @property
    def pid(self) -> int:
        """Process id of the driver's process."""
        assert self._child is not None
        return self._child.pid

    def connect(self) -> None:
        """See `RobotDriver`; an SDK that does not return within `CONNECT_TIMEOUT`, or crashes, is an error.

        Raises:
            ConfigError: also if the SDK does not return.
        """
        try:
            self._child = Child("rpd.deploy.robots.device_process", f"driver of robot {self.spec.name}", self._order)
            self._send("connect")
            self._wait("connect", CONNECT_TIMEOUT)
        except RunFault as error:
            raise ConfigError(f"{error}, while it was connecting") from None
        self._raise("connect")
        if self._asked.get("connect"):
            raise ConfigError(f"robot {self.spec.name}: connecting has taken {CONNECT_TIMEOUT:g} s: does it answer?")

    def read(self) -> RobotState:
        """Return the newest measurement, see `RobotDriver`.

        Raises:
            RobotLost: also if a call has not returned and the newest measurement is older than the deadline.
        """
        self._call("read", {}, self._patience if self._state is not None else self._deadline)
        now, state, oldest = time.monotonic(), self._state, self._oldest()
        if oldest is not None and (state is None or now - state.time > self._deadline):
            name, began = oldest
            waited = f"{1000 * (now - began):.0f} ms"
            raise RobotLost(f"robot {self.spec.name}: it does not answer: '{name}' of its SDK has not returned for {waited}")
        assert state is not None, "an order that is answered has a state or an error"
        return state

    def command(self, joints: Array, gripper: float | None) -> None:
        """See `RobotDriver`; a command that has not started yet is replaced by this one."""
        if not self._stopping:
            self._call("command", {"joints": joints, "gripper": gripper}, self._patience)

    def stop(self) -> None:
        """Stop the robot by the driver's `stop`, and by `SecondStop.stop_otherwise` if that fails or takes too long.

        Raises:
            RobotLost: no stop command has returned within `STOP_TIMEOUT`, or the reason why the last one was refused.
        """
        self._stopping, self._stop_answer, began = True, None, time.monotonic()
        lost: RobotLost | None = None
        self._asked.clear()  # the process drops commands that have not started
        try:
            self._send("stop")
            self._wait("stop", SECOND_STOP_AFTER)
        except RobotLost as error:
            lost = error
        if self._stopped():
            return
        if isinstance(self.driver, SecondStop) and (self._second is None or self._second.ended):
            self._second = Attempt(self.driver.stop_otherwise)
        while not (self._second is not None and self._second.succeeded) and not self._stopped():
            refused = lost or self._stop_answer
            if time.monotonic() > began + STOP_TIMEOUT or (refused and (self._second is None or self._second.ended)):
                raise self._refusal(lost)
            try:
                self._take(time.monotonic() + POLL)
            except RobotLost as error:
                lost = error
                time.sleep(POLL)

    def close(self) -> None:
        """See `RobotDriver`; an SDK that blocks or fails is ended with its process: the robot has been stopped before."""
        child = self._child
        if child is None:
            return
        try:
            self._send("close")
            self._wait("close", CLOSE_TIMEOUT)
            self._raise("close")
            if self._asked.get("close"):
                LOG.warning(f"robot {self.spec.name}: its connection does not close: the process of its driver is ended")
        except (RunFault, ConfigError) as error:
            LOG.warning(f"robot {self.spec.name}: its connection does not close: {error}")
        self._child = None
        child.close()

    def _call(self, name: str, content: Message, seconds: float) -> None:
        """Send an order, and wait for its answer, but not if an order has waited for that long already.

        Raises:
            RobotLost, ConfigError: the error of this or an earlier order.
        """
        self._take(None)
        if (oldest := self._oldest()) is not None:
            seconds -= time.monotonic() - oldest[1]
        self._send(name, content)
        self._wait(name, seconds)
        self._raise("read", "command")

    def _send(self, name: str, content: Message | None = None) -> None:
        self._number += 1
        self._asked.setdefault(name, []).append((self._number, time.monotonic()))
        try:
            self._linked().link.send({"do": name, "number": self._number, **(content or {})})
        except LinkLost:
            raise self._lost() from None

    def _wait(self, name: str, seconds: float) -> None:
        """Receive answers until an order is answered."""
        until = time.monotonic() + seconds
        while self._asked.get(name) and time.monotonic() < until:
            self._take(until)

    def _take(self, until: float | None) -> None:
        """Receive answers; waits for one until `until` (`time.monotonic`).

        Raises:
            RobotLost: the process has ended.
        """
        try:
            answers = self._linked().link.take(until)
        except LinkLost:
            raise self._lost() from None
        for answer in answers:
            name, number = answer["do"], answer["number"]
            self._asked[name] = [order for order in self._asked.get(name, []) if order[0] > number]
            if name == "stop":
                if "error" not in answer or not self._asked[name]:  # else it is that of an earlier attempt
                    self._stop_answer = answer
            elif "error" in answer:
                self._errors[name] = _error(answer)
            elif "state" in answer:
                self._state = RobotState(**answer["state"])

    def _raise(self, *names: str) -> None:
        """Raise the error of an order of these names, once."""
        errors = [self._errors.pop(name) for name in names if name in self._errors]
        if errors:
            raise errors[0]

    def _oldest(self) -> tuple[str, float] | None:
        """Name and time of the order that has waited longest for an answer."""
        waiting = [(orders[0][1], name) for name, orders in self._asked.items() if orders and name != "stop"]
        return (min(waiting)[1], min(waiting)[0]) if waiting else None

    def _stopped(self) -> bool:
        return self._stop_answer is not None and "error" not in self._stop_answer

    def _refusal(self, lost: RobotLost | None) -> BaseException:
        """Return the reason why no stop command succeeded."""
        if self._stop_answer is not None:
            return _error(self._stop_answer)
        if lost is not None:
            return RobotLost(f"{lost}: use its emergency stop")
        if self._second is not None and self._second.error is not None:
            return self._second.error
        waited = f"{1000 * STOP_TIMEOUT:.0f} ms"
        return RobotLost(f"robot {self.spec.name}: the stop command has not returned for {waited}: use its emergency stop")

    def _linked(self) -> Child:
        if self._child is None:
            raise RobotLost(f"robot {self.spec.name}: it is not connected")
        return self._child

    def _lost(self) -> RobotLost:
        """Return the error of a process that has ended."""
        return RobotLost(f"robot {self.spec.name}: the process of its driver has {self._linked().end(END_TIMEOUT) or 'gone'}")


def _error(answer: Message) -> RobotLost | ConfigError:
    return (ConfigError if answer["kind"] == CONFIG else RobotLost)(answer["error"])
