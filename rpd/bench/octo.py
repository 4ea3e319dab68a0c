"""Octo: loading a checkpoint of either layout, in separate processes, and labeling by batch size."""

from __future__ import annotations

import functools
import multiprocessing
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from rpd.envs.processes import without_working_dir
from rpd.teachers.octo import init_model, weights
from rpd.teachers.octo.checkpoint import read_checkpoint
from rpd.teachers.octo.model import Observation, Task

BATCHES = (1, 16, 64)
T = TypeVar("T")


class Measured(NamedTuple):
    """One measurement."""

    what: str
    seconds: float
    cpu_seconds: float
    """CPU time of all threads, s: independent of other load on the machine."""
    peak_mb: float
    """Peak memory of the process so far, MB."""
    labels: int
    """Number of labeled observations."""


def measure(size: str, checkpoint: Path | None, samples: int, device: str, threads: int) -> list[Measured]:
    """Load a checkpoint and label observations.

    Args:
        size: size of a model with random weights (a file in teachers/octo/sizes/), used without `checkpoint`.
        checkpoint: a folder in the original layout.
        samples: samples per observation.
        device: device of the model.
        threads: CPU threads.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder, converted = checkpoint or Path(temporary) / "original", Path(temporary) / "converted"
        if checkpoint is None:
            _make(size, folder)
        weights.convert(read_checkpoint(folder, str(folder)), folder, converted)
        return _alone(_load, "load msgpack", folder, threads) + _alone(_load_and_label, converted, samples, device, threads)


def _alone(work: Callable[..., T], *args: Any) -> T:
    with without_working_dir(), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args)


def _make(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    statistics = {"action": {"mean": [0.0] * 7, "std": [1.0] * 7}}
    size = init_model.read_size(name)
    init_model.write_original(init_model.new_model(init_model.new_config(size, 7), size), size.cameras, statistics, folder)


def _load(what: str, folder: Path, threads: int) -> list[Measured]:
    import transformers.models.t5.modeling_t5  # noqa: F401  (excludes the import from the time)

    torch.set_num_threads(threads)
    return [_timed(what, 0, lambda: weights.load(read_checkpoint(folder, str(folder)), folder))]


@torch.no_grad()
def _load_and_label(folder: Path, samples: int, device: str, threads: int) -> list[Measured]:
    """Label images of the first camera at window size 1, with the instruction encoded before, as in training."""
    rows = _load("load converted", folder, threads)
    checkpoint = read_checkpoint(folder, str(folder))
    model = weights.load(checkpoint, folder, device=device)
    key, size = next(iter(checkpoint.cameras.items()))
    images = torch.randint(0, 256, (max(BATCHES), 1, *size, 3), dtype=torch.uint8, device=device)
    language = torch.randn(max(BATCHES), model.config.max_tokens, model.t5.config.d_model, device=device)
    generator = torch.Generator(device)

    def label(n: int) -> None:
        seen = Observation({key: images[:n]}, torch.ones(n, 1, dtype=torch.bool, device=device))
        task = Task(language[:n], torch.ones(n, dtype=torch.bool, device=device))
        model.head.sample(model.readout(seen, task), (samples,), generator).sum().item()

    label(1)  # warms up
    return rows + [_timed(f"label {n}", n, functools.partial(label, n)) for n in BATCHES]


def _timed(what: str, labels: int, work: Callable[[], object]) -> Measured:
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return Measured(what, time.perf_counter() - began, time.process_time() - cpu, _peak(), labels)


def _peak() -> float:
    """Largest resident memory of this process so far, MB."""
    try:  # getrusage on Linux includes the parent's memory at fork
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1e3  # type: ignore[index]
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
