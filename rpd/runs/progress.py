"""Progress display of a training run: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column

LOG = logging.getLogger(__name__)

# metric, and its format
SHOWN: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("rollout/success", lambda v: f"success {v:.0%}"),
    ("rollout/ep_return", lambda v: f"return {v:.2f}"),
    ("bc/loss", lambda v: f"loss {v:.3f}"),
    ("clone/action", lambda v: f"loss {v:.3f}"),
    ("time/fps", lambda v: f"{v:,.0f} steps/s"),
    ("distill/weight", lambda v: f"distill {v:.2f}"),
    ("distill/divergence", lambda v: f"divergence {v:.3f}"),
)
MOMENTARY = ("distill/",)
"""Prefixes of metrics that are shown only if the newest iteration logged them. Others stay until they are logged again."""
_displays: list[Display] = []


def report_progress(what: str, done: int, total: int) -> None:
    """Show the progress within a long iteration on the open display, if any.

    Args:
        what: part of the iteration, e.g. "collecting".
        done: completed steps of the part.
        total: steps of the part.
    """
    if _displays:
        _displays[-1].report(what, done, total)


class Display:
    """Progress of one run on stdout.

    A terminal gets a live bar, whose text wraps in a narrow terminal; a pipe or a log file gets one plain line per
    `every_s` seconds, without ANSI codes.
    """

    def __init__(self, total_steps: int, start_step: int = 0, every_s: float = 10.0) -> None:
        self.total = total_steps
        self.start = start_step
        self.every_s = every_s
        self.began = self.updated = time.monotonic()
        self.printed = -float("inf")
        self.metrics: dict[str, float] = {}
        self.text = "first iteration"
        self._part, self._first, self._since = "", 0, self.began
        self.bar: Progress | None = None
        if sys.stdout.isatty():
            self.bar = Progress(
                BarColumn(bar_width=10),
                TaskProgressColumn(),
                TextColumn("{task.description}", table_column=Column(overflow="fold")),
                console=Console(file=sys.stdout),
                refresh_per_second=4,
            )
            self.task = self.bar.add_task(self.text, total=total_steps, completed=start_step)
            self.bar.start()

    def open(self) -> None:
        """Make this the display of `report_progress`, until `close`."""
        _displays.append(self)

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Show the newest metrics; an evaluation gets a permanent line."""
        persistent = {name: value for name, value in self.metrics.items() if not name.startswith(MOMENTARY)}
        self.metrics = persistent | metrics
        if "eval/success_once" in metrics:
            self._print(evaluation_line(step, metrics))
        self.text, self.updated, self._part = self.line(step), time.monotonic(), ""
        if self.bar is not None:
            self.bar.update(self.task, completed=step, description=self.text)
        elif self.updated - self.printed >= self.every_s or step >= self.total:
            self.printed = self.updated
            self._print(self.text)

    def report(self, what: str, done: int, total: int) -> None:
        """See `report_progress`; shows nothing in an iteration shorter than `every_s`."""
        now = time.monotonic()
        if what != self._part or done <= self._first:
            self._part, self._first, self._since = what, done, now
        if now - self.updated < self.every_s:
            return
        left = (now - self._since) / max(done - self._first, 1) * (total - done)
        text = f"{self.text} · {what} {done:,}/{total:,}" + (f", {_time(left)} left of it" if done > self._first else "")
        if self.bar is not None:
            self.bar.update(self.task, description=text)
        else:
            self.updated = now
            self._print(text)

    def line(self, step: int) -> str:
        """Return the progress at `step` as one line of text."""
        parts = [f"{step:,}/{self.total:,}"]
        if step > self.start:
            parts.append(f"{_time((time.monotonic() - self.began) / (step - self.start) * max(self.total - step, 0))} left")
        return " · ".join(parts + [show(self.metrics[name]) for name, show in SHOWN if name in self.metrics])

    def close(self) -> None:
        """Restore the terminal."""
        if self in _displays:
            _displays.remove(self)
        if self.bar is not None:
            self.bar.stop()

    def _print(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(text, highlight=False, markup=False)
        else:
            LOG.info(text)


def _time(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))


def evaluation_line(step: int, metrics: dict[str, float]) -> str:
    """Format an evaluation: success rate, and its interval if known."""
    text = f"{step:,} steps: evaluated, success {metrics['eval/success_once']:.0%}"
    if "eval/success_once_lo" in metrics and "eval/success_once_hi" in metrics:
        text += f" (95 % interval {metrics['eval/success_once_lo']:.0%} to {metrics['eval/success_once_hi']:.0%})"
    return text


class ProgressLog:
    """Periodic log lines for slow work; nothing is logged if it finishes within `every_s`.

    Args:
        what: description of the work, e.g. "evaluating student on libero/object-3".
        steps: maximum number of steps.
        steps: how many it takes at most.
    """

    every_s = 15.0
    """Seconds between lines."""

    def __init__(self, what: str, steps: int) -> None:
        self.what, self.steps = what, steps
        self.began = self.printed = time.monotonic()

    def update(self, step: int, done: str) -> None:
        """Report that `step` steps are complete; `done` describes the results so far."""
        now = time.monotonic()
        if now - self.printed >= self.every_s:
            self.printed = now
            left = (now - self.began) / step * (self.steps - step)
            LOG.info(f"{self.what}: {done} · at most {_time(left)} left")
