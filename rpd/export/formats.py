"""Networks as bytes, in each format that `rpd.export.runtime` reads."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from envs.errors import ConfigError

MAX_BATCH = 4096


def check(name: str) -> None:
    """Refuse a format whose packages are not installed.

    Raises:
        ConfigError: naming the extra.
    """
    if name == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"format onnx needs {error.name}: pip install 'rpd[export]'") from None


def serialize(network: nn.Module, inputs: Sequence[Tensor], names: Sequence[str], format: str) -> bytes:
    """Write a network in a format.

    Args:
        network: a function of tensors (``*inputs``), batch first, to one tensor.
        inputs: an example, with a batch of at least 2; the batch may be of any size later.
        names: of the inputs.
        format: one of `FORMATS`.
    """
    with _exporting(), torch.no_grad():
        return FORMATS[format][1](network.eval(), tuple(inputs), list(names))


def _onnx(network: nn.Module, inputs: tuple[Tensor, ...], names: list[str]) -> bytes:
    program = torch.onnx.export(
        _program(network, inputs), inputs, dynamo=True, input_names=names, output_names=["output"], verbose=False
    )
    assert program is not None
    return program.model_proto.SerializeToString()


def _pt2(network: nn.Module, inputs: tuple[Tensor, ...], names: list[str]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(_program(network, inputs), buffer)
    return buffer.getvalue()


def _torchscript(network: nn.Module, inputs: tuple[Tensor, ...], names: list[str]) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.freeze(torch.jit.trace(network, inputs, check_trace=False)), buffer)
    return buffer.getvalue()


def _program(network: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    return torch.export.export(network, inputs, dynamic_shapes=(tuple({0: batch} for _ in inputs),))


@contextlib.contextmanager
def _exporting() -> Iterator[None]:
    """Plain operators only; and no words about torchvision, nor about what is deprecated inside torch."""
    logger = logging.getLogger("torch.onnx")
    level, fused = logger.level, torch.backends.mha.get_fastpath_enabled()
    logger.setLevel(logging.ERROR)
    torch.backends.mha.set_fastpath_enabled(False)  # a fused layer of a transformer is no operator of other runtimes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fused)


FORMATS: dict[str, tuple[str, Callable[[nn.Module, tuple[Tensor, ...], list[str]], bytes]]] = {
    "onnx": (".onnx", _onnx),
    "torchscript": (".pt", _torchscript),
    "pt2": (".pt2", _pt2),
}
"""Ending of the file, and what writes it."""
