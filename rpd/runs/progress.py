"""What a person sees while a run trains: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

# metric, and how it is shown
SHOWN: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("time/sps", lambda v: f"{v:,.0f} steps/s"),
    ("rollout/success", lambda v: f"success {v:.0%}"),
    ("rollout/return", lambda v: f"return {v:.2f}"),
    ("clone/action", lambda v: f"loss {v:.3f}"),
    ("distill/divergence", lambda v: f"divergence {v:.3f}"),
    ("distill/weight", lambda v: f"distill {v:.2f}"),
)


class Display:
    """Progress of one run on stdout.

    A terminal gets a live bar; a pipe or a log file gets one plain line per `every_s` seconds, without ANSI codes.
    """

    def __init__(self, total_steps: int, start_step: int = 0, every_s: float = 10.0) -> None:
        self.total = total_steps
        self.start = start_step
        self.every_s = every_s
        self.began = time.monotonic()
        self.printed = -float("inf")
        self.seen: dict[str, float] = {}
        self.bar: Progress | None = None
        if sys.stdout.isatty():
            self.bar = Progress(
                BarColumn(bar_width=24),
                TaskProgressColumn(),
                TextColumn("{task.description}"),
                console=Console(file=sys.stdout),
                refresh_per_second=4,
            )
            self.task = self.bar.add_task("collecting the first batch", total=total_steps, completed=start_step)
            self.bar.start()

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Show the newest numbers; an evaluation gets a line of its own that stays."""
        self.seen.update(metrics)
        if "eval/success" in metrics:
            self._say(evaluation_line(step, metrics))
        line = self.line(step)
        if self.bar is not None:
            self.bar.update(self.task, completed=step, description=line)
        elif time.monotonic() - self.printed >= self.every_s or step >= self.total:
            self.printed = time.monotonic()
            self._say(line)

    def line(self, step: int) -> str:
        """Return the progress at `step` as one line of text."""
        parts = [f"{step:,}/{self.total:,}"]
        parts += [show(self.seen[name]) for name, show in SHOWN if name in self.seen]
        if step > self.start:
            left = (time.monotonic() - self.began) / (step - self.start) * max(self.total - step, 0)
            parts.append(f"{timedelta(seconds=round(left))} left")
        return " · ".join(parts)

    def close(self) -> None:
        """Leave the terminal as it was found."""
        if self.bar is not None:
            self.bar.stop()

    def _say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, flush=True)


def evaluation_line(step: int, metrics: dict[str, float]) -> str:
    """Return one evaluation as a line: its rate, and the interval where it is known."""
    text = f"{step:,} steps: evaluated, success {metrics['eval/success']:.0%}"
    if "eval/success_lo" in metrics and "eval/success_hi" in metrics:
        text += f" (95 % interval {metrics['eval/success_lo']:.0%} to {metrics['eval/success_hi']:.0%})"
    return text


class Patience:
    """Lines about work that takes longer than one likes to wait without a word; nothing about what is quick.

    Args:
        what: the work, e.g. "evaluating student on libero/object-3".
        steps: how many it takes at most.
    """

    every_s = 15.0
    """Seconds without a word."""

    def __init__(self, what: str, steps: int) -> None:
        self.what, self.steps = what, steps
        self.began = self.spoke = time.monotonic()

    def tell(self, step: int, done: str) -> None:
        """Note that `step` of the steps are taken; `done` says what has come of it."""
        now = time.monotonic()
        if now - self.spoke >= self.every_s:
            self.spoke = now
            left = (now - self.began) / step * (self.steps - step)
            print(f"{self.what}: {done} · at most {timedelta(seconds=round(left))} left", flush=True)
