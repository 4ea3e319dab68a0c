"""Process of a real robot's driver: calls its SDK, and stops the robot if the control loop is gone."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from rpd.core import realtime
from rpd.core.link import Link, LinkLost, parent
from rpd.deploy.config import RobotConfig
from rpd.deploy.robots.base import RobotDriver, SecondStop
from rpd.deploy.robots.make import make
from rpd.envs import user_files
from rpd.envs.errors import ConfigError, RunFault
from rpd.teachers.transport.codec import Message

SETTLE = 0.02
"""Time that the stop command waits for a call in progress, s: SDKs expect one call at a time."""
ORPHAN_TIMEOUT = 1.0
"""Longest wait for a stop command, and for closing, once the control loop is gone, s."""
CONFIG, LOST = "config", "lost"
"""Kinds of errors: that of `ConfigError`, and all others."""


class DeviceService:
    """Answers the orders of a `rpd.deploy.robots.device.DeviceProcess`.

    Reading and commanding take turns in a thread: of the orders that wait, the newest of each kind counts. The stop command
    does not wait for a call that blocks; it is repeated when a command returns that it has overtaken.

    Args:
        link: link to the control loop.
        driver: the driver, not connected.
    """

    def __init__(self, link: Link, driver: RobotDriver) -> None:
        self._link, self._driver = link, driver
        self._changed = threading.Condition()
        self._pending: dict[str, Message] = {}  # the newest order of each name that has not started
        self._running: str | None = None
        self._commanded = self._stopping = self._overtaken = False
        self._stop_number: int | None = None  # of the newest order to stop, while a stop command is under way
        threading.Thread(target=self._work, daemon=True, name="device").start()

    def run(self) -> None:
        """Answer orders until the one to close; a lost link ends the robot's motion."""
        try:
            while True:
                for order in self._link.take(float("inf")):
                    if order["do"] == "close":
                        self._close(order)
                        return
                    self._take(order)
        except LinkLost:
            self._abandon()

    def _take(self, order: Message) -> None:
        with self._changed:
            if order["do"] == "stop":
                self._stopping = True
                self._pending.clear()
                waits, self._stop_number = self._stop_number is not None, order["number"]
                if not waits:  # else it is blocked since an earlier order, which is answered with this number
                    threading.Thread(target=self._stop, daemon=True, name="stop").start()
            elif not (self._stopping and order["do"] == "command"):
                self._pending[order["do"]] = order
                self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._pending))
                name = next(name for name in ("connect", "command", "read") if name in self._pending)
                order = self._pending.pop(name)
                self._running = name
                self._commanded |= name == "command"
            self._answer(order, partial(self._call, order))
            with self._changed:
                self._running = None
                again = self._overtaken and name == "command"
                self._changed.notify_all()
            if again:  # the robot was stopped while this command was blocked: it may move again
                failure(self._driver.stop)

    def _call(self, order: Message) -> Message:
        """Make a call of the driver; returns its result."""
        if order["do"] == "connect":
            self._driver.connect()
            realtime.enable_realtime(realtime.LOOP)
        elif order["do"] == "command":
            self._driver.command(order["joints"], order["gripper"])
        else:
            state = self._driver.read()
            return {"state": {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}}
        return {}

    def _stop(self) -> None:
        with self._changed:
            self._overtaken |= not self._changed.wait_for(lambda: self._running is None, SETTLE)
        failed = failure(self._driver.stop)
        with self._changed:
            number, self._stop_number = self._stop_number, None
        self._send({"do": "stop", "number": number, **(failed or {})})

    def _close(self, order: Message) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._running is None, SETTLE)
        self._answer(order, self._driver.close)

    def _answer(self, order: Message, call: Callable[[], Message | None]) -> None:
        """Make a call, and send its result or its error."""
        result: Message = {}

        def keep() -> None:
            result.update(call() or {})

        failed = failure(keep)
        self._send({"do": order["do"], "number": order["number"], **(failed or result)})

    def _send(self, message: Message) -> None:
        try:
            self._link.send(message)
        except LinkLost:
            return  # `run` notices it, too

    def _abandon(self) -> None:
        """Stop a robot that has been commanded, and close: the control loop is gone."""
        if self._commanded and not self._stopping:
            done: list[Message | None] = []
            within(ORPHAN_TIMEOUT, lambda: done.append(failure(self._driver.stop)))
            if done != [None] and isinstance(self._driver, SecondStop):
                within(ORPHAN_TIMEOUT, partial(failure, self._driver.stop_otherwise))
        within(ORPHAN_TIMEOUT, lambda: failure(self._driver.close))


def failure(call: Callable[[], Any]) -> Message | None:
    """Make a call; returns its error as the entries of a message, or None. The traceback of an SDK's own error is printed."""
    try:
        call()
    except (ConfigError, RunFault) as error:
        return {"error": str(error), "kind": CONFIG if isinstance(error, ConfigError) else LOST}
    except BaseException as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}", "kind": LOST}
    return None


def within(seconds: float, call: Callable[[], object]) -> None:
    """Make a call in a thread, and wait for it at most so long."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)


def main(handle: int) -> None:
    """Run the driver of the first message; see `rpd.core.link.Child`. Does not return: an SDK's threads may hang the exit."""
    link = parent(handle)
    try:
        order = link.take(float("inf"))[0]
        try:
            user_files.inherit()
            driver = make(RobotConfig.model_validate_json(order["config"]), order["host"])
        except (ConfigError, RunFault) as error:
            link.send({"error": str(error)})
            return
        link.send({"ready": True})
        DeviceService(link, driver).run()
    except LinkLost:
        return
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
