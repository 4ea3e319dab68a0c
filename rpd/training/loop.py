"""Training loop of all algorithms: iterate, log, evaluate, save; can be interrupted and resumed after any iteration."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel
from torch import Tensor, nn

from rpd.config.tracking import Track
from rpd.core.distributed import SOLO, World
from rpd.core.interrupt import Interrupt
from rpd.envs.errors import ServerLost
from rpd.runs import checkpoint
from rpd.runs.tracker import Tracker, record_settings
from rpd.runs.writers import check_installed


class Stop:
    """Request to stop the run at the next opportunity.

    Attributes:
        here: returns whether this rank was asked to stop, for work that the ranks do not do in step.
    """

    def __init__(self, here: Callable[[], bool], world: World = SOLO) -> None:
        self.here, self.world = here, world

    def __call__(self) -> bool:
        """Return whether any rank was asked to stop; all ranks call this together."""
        return self.world.any(self.here())


def floating_tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and statistics of a module, for `TrainingLoop.weights`."""
    return [tensor for tensor in module.state_dict().values() if tensor.is_floating_point()]


class TrainingLoop(ABC):
    """Base class of trainers: one run in a run folder; `run` starts or continues it.

    A subclass builds the networks and data in its constructor and defines `iterate`, `evaluate`, `save`, `finish` and
    `evidence`. There is one log entry per iteration: a rollout with its update, or a number of gradient steps.

    Args:
        config: the run's configuration, written to config.yaml.
        run_dir: run folder.
        resume: checkpoint to continue from; None: start a run.
        save_freq: steps between checkpoints.
        eval_freq: steps between evaluations; None: the subclass overrides `evaluation_due`.
        world: ranks of the run. All execute the same iterations; rank 0 writes metrics, results and most of a checkpoint.
        track: further writers of metrics, see `rpd.runs.writers.WRITERS`.

    Attributes:
        step: steps so far, in the algorithm's unit; incremented by `iterate`.
        wall: seconds of all iterations so far, including those of earlier processes.
        sources: identities of the teacher, base and initial policy, see `rpd.policies.identity`.
        clock: returns seconds; benchmarks replace it by a clock that waits for the device.
    """

    config: BaseModel

    def __init__(
        self,
        config: BaseModel,
        run_dir: Path,
        resume: checkpoint.Checkpoint | None,
        save_freq: int,
        eval_freq: int | None = None,
        world: World = SOLO,
        track: Track = (),
    ) -> None:
        check_installed(track)
        self.config, self.run_dir, self.world = config, Path(run_dir), world
        self.save_freq, self.eval_freq, self.track = save_freq, eval_freq, track
        self.step, self.wall = (0, 0.0) if resume is None else (resume.step, float(resume.meta["wall"]))
        self.resume_step = self.saved_step = None if resume is None else resume.step
        self.sources: dict[str, str | None] = {}
        self.clock = time.perf_counter

    @property
    @abstractmethod
    def total_steps(self) -> int:
        """Length of the run, in the unit of `step`."""

    @property
    def exact_resume(self) -> bool:
        """Whether a resumed run reproduces an uninterrupted run bit for bit."""
        return True

    @abstractmethod
    def iterate(self) -> dict[str, float]:
        """Train for one iteration; returns metrics by ``group/name``."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Evaluate the current policy; returns metrics."""

    @abstractmethod
    def weights(self) -> list[Tensor]:
        """Return the trained parameters, which are equal on all ranks."""

    @abstractmethod
    def save(self) -> None:
        """Write a checkpoint with the complete training state."""

    @abstractmethod
    def finish(self) -> None:
        """Evaluate the final policy on new episodes and write result.json."""

    @abstractmethod
    def evidence(self) -> dict[str, Tensor]:
        """Return tensors to inspect after NaN or Inf stopped the run, by name: the newest batch, if any, and the weights."""

    def evaluation_due(self, before: int) -> bool:
        """Return whether to evaluate after an iteration that began at step `before`."""
        return self.eval_freq is not None and self.due(self.eval_freq, before)

    def saving_due(self, before: int) -> bool:
        """Return whether to save after an iteration that began at step `before`."""
        return self.due(self.save_freq, before)

    def begin(self, stop: Stop) -> None:
        """Prepare the run before the first iteration, e.g. evaluate the teacher; skips work done by an earlier process."""
        del stop

    def prepare(self, stop: Stop) -> bool:
        """Prepare the data of the next iteration, if `iterate` does not collect it; returns False if stopped."""
        return not stop()

    def close(self) -> None:
        """Release resources, e.g. environments. May be called twice."""
        return

    def run(self) -> bool:
        """Train to the end or until interrupted, then `close`.

        Returns:
            Whether the run is complete; if not, it can be continued from a checkpoint.

        Raises:
            RunFault: the run cannot continue: NaN or Inf, or a lost server; in the latter case all completed iterations are
                saved.
            OSError: the run folder cannot be written; the last checkpoint is intact.
        """
        with self.world.together():
            if self.world.is_first:
                record_settings(self.run_dir, self.config, self.sources)
        try:
            with Interrupt() as interrupt:
                complete = self._train(Stop(lambda: interrupt.requested, self.world))
            if complete:
                self.finish()
            return complete
        except ServerLost as error:
            # the training state is valid: keep all completed iterations, if the other ranks do the same
            if self.saved_step != self.step and self.world.is_shared(error):
                self._save()
            raise
        finally:
            self.close()

    def due(self, every: int, before: int) -> bool:
        """Return whether a multiple of `every` was passed since step `before`, or the run is complete."""
        return self.step // every > before // every or self.step >= self.total_steps

    def _train(self, stop: Stop) -> bool:
        """Iterate to the end or until stopped; returns whether the run is complete."""
        self.begin(stop)
        with self._tracker() if self.world.is_first else contextlib.nullcontext() as tracker:
            while self.step < self.total_steps and self.prepare(stop):
                before, began = self.step, self.clock()
                metrics = self.iterate()
                seconds = self.clock() - began
                self.wall += seconds
                metrics |= {"time/fps": (self.step - before) / seconds, "time/wall": self.wall}
                if self.evaluation_due(before):
                    metrics |= self.evaluate()
                with self.world.together():
                    if tracker is not None:
                        tracker.log(self.step, metrics)
                if self.saving_due(before):
                    self._save()
        complete = self.step >= self.total_steps
        if self.saved_step != self.step:
            self._save()
        return complete

    def _tracker(self) -> Tracker:
        return Tracker(self.run_dir, self.total_steps, self.resume_step, self.track, self.config)

    def _save(self) -> None:
        self.world.check_equal(self.weights(), "weights")
        self.save()
        self.saved_step = self.step
