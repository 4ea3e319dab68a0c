"""The fake controller of a UR: registers, safety status, the watchdog, and the control script of ur_rtde 1.6.5.

The real control script (scripts/rtde_control.script in the sdist of ur-rtde) reads a command number from an input register in
every cycle, answers in an output register, and moves the arm. This one acts in the same way on the registers. They are read
once per cycle: of two packages in one cycle the later one counts.
"""

import time

import numpy as np

STOPPED, PLAYING, PAUSED = 1, 2, 4  # runtime states
READY, DONE = 1, 2  # answers of the script
NORMAL, PROTECTIVE, SAFEGUARD, EMERGENCY = 1 << 0, 1 << 2, 1 << 4, 1 << 7  # bits of the safety status
SAFETY = {"normal": NORMAL, "protective": PROTECTIVE, "safeguard": SAFEGUARD, "emergency": EMERGENCY}
SERVO, SERVO_STOP, PROTECTIVE_STOP, STOP_L, STOP_J, SET_WATCHDOG, STOP_SCRIPT = 11, 16, 31, 33, 34, 35, 255
AT_REST = 0.02  # rad/s


class Controller:
    """State of the controller; `cycle` is called periodically, the rest from any thread.

    Attributes:
        ints, doubles: input registers.
        answer: output register 0, in which the script answers.
        stops: how and when (`time.monotonic`) the arm was stopped, oldest first.
        commands: number and time of the newest servo commands.
    """

    def __init__(self, arm):
        self.arm = arm
        self.began = time.monotonic()
        self.fault = None
        self.reset()

    def reset(self):
        """A controller in remote control, without a program."""
        self.ints, self.doubles, self.answer = [0] * 48, [0.0] * 48, 0
        self.runtime, self.safety = STOPPED, NORMAL
        self.stops, self.commands, self.last_command = [], 0, 0.0
        self._watchdog, self._updated = None, 0.0
        self._servoing = self._executing = self._braking = False

    def receive(self, names, values):
        """Take a data package of a client."""
        for name, value in zip(names, values, strict=True):
            kind, _, number = name.rpartition("_register_")
            if kind == "input_int":
                self.ints[int(number)] = value
                if number == "0":
                    self._updated = time.monotonic()
            elif kind == "input_double":
                self.doubles[int(number)] = value

    def play(self):
        """Start the control script."""
        self.answer, self._servoing, self._executing, self._watchdog = 0, False, False, None
        self.runtime = PLAYING if self.safety == NORMAL else STOPPED

    def stop(self, how):
        """Stop the program; the arm brakes and holds."""
        if self.runtime != STOPPED:
            self.runtime, self._watchdog = STOPPED, None
            self._halt(how)

    def set_safety(self, name):
        """A protective, safeguard or emergency stop, or the end of one."""
        self.safety = SAFETY[name]
        if name == "emergency":
            self.stop("emergency stop")
        elif name != "normal" and self.runtime == PLAYING:
            self.runtime = PAUSED
            self._halt(f"{name} stop")

    def cycle(self):
        """One cycle of the controller and of its script."""
        now = time.monotonic()
        if self.runtime != PLAYING:
            return
        if self._watchdog is not None and now - self._updated > self._watchdog:
            self.stop("watchdog")
            return
        order = self.ints[0]
        if order == SERVO:
            self._servo(now)
            self.answer = READY
        elif order == 0:
            self._executing, self.answer = False, READY
        elif not self._executing:
            self._executing = True
            self._obey(order)
        if self._braking and np.abs(self.arm.sensed.velocities).max() < AT_REST:
            self._braking, self.answer = False, DONE

    def _servo(self, now):
        self._servoing = True
        self.commands, self.last_command = self.commands + 1, now
        self.arm.drive(np.array(self.doubles[:6]))

    def _obey(self, order):
        if order in (SERVO_STOP, STOP_L, STOP_J):
            self._halt({SERVO_STOP: "servo stop", STOP_L: "stopl", STOP_J: "stopj"}[order])
            self._braking = True  # the script answers when the arm is at rest
        elif order == STOP_SCRIPT:
            self.stop("end of the script")
        elif order == PROTECTIVE_STOP:
            self.set_safety("protective")
        else:
            if order == SET_WATCHDOG:
                self._watchdog = 1 / self.doubles[0]
            self.answer = DONE

    def _halt(self, how):
        self._servoing = False
        self.arm.hold()
        self.stops.append((how, time.monotonic()))
