"""Processes of one training run, started by torchrun: collectives on tensors, gradients and JSON values.

Each process (rank) runs the same program on its share of the environments or rows. Values pass between ranks as tensors and as
JSON; nothing is pickled. Backends: gloo on CPU, nccl on CUDA.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rpd.envs.errors import ConfigError, RunFault, ServerLost
from rpd.students.row_share import RowShare

T = TypeVar("T")

BUCKET = 16 * 2**20
"""Elements per all-reduce of gradients."""
FAULTS: dict[str, type[Exception]] = {kind.__name__: kind for kind in (ConfigError, ServerLost)}
"""Errors that keep their type on the ranks that did not cause them; any other becomes a `RunFault`."""


class World:
    """The ranks of a run; with one rank, every method is the identity.

    Attributes:
        rank: index of this process.
        size: number of processes.
        waited: seconds spent in `sum_gradients`, waiting for slower ranks included.
        sent: bytes that `sum_gradients` has passed to the other ranks.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._shared_faults: list[Exception] = []  # of `together`: known to all ranks
        self._depth = 0  # of `together`
        self.waited, self.sent = 0.0, 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def share(self, total: int) -> RowShare:
        """Return this rank's contiguous share of `total` rows; shares differ by at most one row."""
        first, last = (total * k // self.size for k in (self.rank, self.rank + 1))
        return RowShare(first, last - first, total)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks; every rank gets the same bits."""
        if self.size == 1:
            return value
        self._meet()
        total = value.detach().clone(memory_format=torch.contiguous_format)
        with _peers():
            dist.all_reduce(total)
        return total

    def mean_std(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the (biased) standard deviation over all entries of all ranks, two scalars."""
        if self.size == 1:
            return x.mean(), x.std(correction=0)
        double = x.double()
        count, total = self.sum(torch.stack([double.new_tensor(float(x.numel())), double.sum()])).unbind()
        mean = total / count
        variance = self.sum((double - mean).square().sum()) / count
        return mean.to(x.dtype), variance.sqrt().to(x.dtype)

    @property
    def add_up(self) -> Callable[[Tensor], Tensor] | None:
        """`sum`, or None if there is one rank: then statistics need no second pass."""
        return None if self.size == 1 else self.sum

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag))).item())

    def gather(self, value: Any) -> list[Any]:
        """Return the JSON values of all ranks, ordered by rank."""
        if self.size == 1:
            return [value]
        self._meet()
        return self._gather(value)

    def _gather(self, value: Any) -> list[Any]:
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        with _peers():
            lengths = [torch.zeros((), dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(lengths, torch.tensor(len(data)))
            padded = torch.zeros(max(int(n) for n in lengths), dtype=torch.uint8)
            padded[: len(data)] = data
            parts = [torch.zeros_like(padded) for _ in lengths]
            dist.all_gather(parts, padded)
        return [json.loads(part[: int(n)].numpy().tobytes()) for part, n in zip(parts, lengths, strict=True)]

    def first(self, compute: Callable[[], T]) -> T:
        """Return a JSON value computed by rank 0 to all ranks; its errors, too."""
        value: Any = None
        with self.together():
            if self.is_first:
                value = compute()
        return value if self.size == 1 else self.gather(value)[0]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Context that ends for all ranks at once: if it fails on one, it fails on all.

        Collectives within it end it, too: none waits for a rank that has failed before it got there.

        Raises:
            ConfigError, ServerLost, RunFault: on ranks without an error of their own, the first error of the others. It names
                the rank.
        """
        if self.size == 1:
            yield
            return
        fault: Exception | None = None
        self._depth += 1
        try:
            yield
        except (ConfigError, RunFault, OSError) as error:
            if self.is_shared(error):
                raise
            fault = error
        finally:
            self._depth -= 1
        self._compare_faults(fault)

    def _compare_faults(self, fault: Exception | None) -> None:
        """Exchange errors with the other ranks; raises this rank's own, or the first of the others."""
        flag = torch.tensor(float(fault is not None))
        with _peers():
            dist.all_reduce(flag)
        if not flag.item():
            return
        messages = self._gather(None if fault is None else [_kind(fault), " ".join(str(fault).split())])
        failed = next(rank for rank, found in enumerate(messages) if found is not None)
        kind, text = messages[failed]
        raised = fault or FAULTS.get(kind, RunFault)(f"rank {failed} of {self.size}: {text}")
        self._shared_faults.append(raised)
        raise raised

    def _meet(self) -> None:
        """Wait for the other ranks before a collective, if one may have failed in `together`."""
        if self._depth:
            self._compare_faults(None)

    def is_shared(self, error: Exception) -> bool:
        """Return whether all ranks raise an error, or one of its kind, at the same point."""
        return self.size == 1 or any(error is known for known in self._shared_faults)

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of rank 0."""
        if self.size > 1:
            self._meet()
            with torch.no_grad(), _peers():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def copy_generator_from_first(self, generator: torch.Generator) -> None:
        """Set a random generator to the state of that of rank 0."""
        if self.size > 1:
            state = generator.get_state()
            self.copy_from_first([state])
            generator.set_state(state)

    def fault(self, message: str) -> ConfigError:
        """Return an error that all ranks raise at the same point."""
        error = ConfigError(message)
        self._shared_faults.append(error)
        return error

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the gradients by their sums over all ranks, in one flat all-reduce per dtype and `BUCKET` elements.

        A parameter without a gradient must have none on any rank.
        """
        self.sum_in_place([p.grad for p in parameters if p.grad is not None])

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all ranks, see `sum_gradients`."""
        if self.size == 1:
            return
        self._meet()
        began = time.perf_counter()
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            with _peers():
                dist.all_reduce(flat)
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))
            self.sent += flat.numel() * flat.element_size()
        self.waited += time.perf_counter() - began

    def check_equal(self, tensors: Sequence[Tensor], what: str) -> None:
        """Check that tensors have the same bits on all ranks.

        Raises:
            RunFault: they differ; names the ranks.
        """
        if self.size == 1:
            return
        sums = [float(t.detach().double().sum()) for t in tensors] + [float(t.detach().double().abs().sum()) for t in tensors]
        found = self.gather(sums)
        if other := [rank for rank, sums in enumerate(found) if sums != found[0]]:
            raise RunFault(f"{what} of rank {other[0]} of {self.size} differ from those of rank 0: this must not happen")


SOLO = World()
"""The world of a process that torchrun has not started."""


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Translate the error of a collective, which fails when another rank has ended."""
    try:
        yield
    except RuntimeError as error:
        raise RunFault(f"another rank of this run has ended or does not answer: {line_of(error)}") from None


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group tensors of one dtype, at most `BUCKET` elements per group."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (bucket[0].dtype != tensor.dtype or sum(t.numel() for t in bucket) + tensor.numel() > BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _kind(error: Exception) -> str:
    return next((name for name, kind in FAULTS.items() if isinstance(error, kind)), RunFault.__name__)


def line_of(error: Exception) -> str:
    """Return an error in one line."""
    return " ".join(str(error).split())[:200]
