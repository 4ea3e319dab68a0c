"""Serialization of networks to ONNX, the format of `rpd.export.runtime`."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from rpd.envs.errors import missing_package

MAX_BATCH = 4096


def check() -> None:
    """Check that the packages for writing ONNX are installed.

    Raises:
        ConfigError: names the extra.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_package("an export", str(error.name), "export") from None


def serialize(network: nn.Module, inputs: Sequence[Tensor], names: Sequence[str]) -> bytes:
    """Serialize a network.

    Args:
        network: a function of tensors (``*inputs``), batch first, to one tensor.
        inputs: example with a batch of at least 2; the exported batch size is variable.
        names: names of the inputs.
    """
    batch, example = torch.export.Dim("batch", min=1, max=MAX_BATCH), tuple(inputs)
    with _exporting(), torch.no_grad():
        exported = torch.export.export(network.eval(), example, dynamic_shapes=(tuple({0: batch} for _ in example),))
        program = torch.onnx.export(
            exported, example, dynamo=True, input_names=list(names), output_names=["output"], verbose=False
        )
    assert program is not None
    return program.model_proto.SerializeToString()


@contextlib.contextmanager
def _exporting() -> Iterator[None]:
    """Use plain operators only, and suppress warnings about torchvision and about deprecations inside torch."""
    logger = logging.getLogger("torch.onnx")
    level, fused = logger.level, torch.backends.mha.get_fastpath_enabled()
    logger.setLevel(logging.ERROR)
    torch.backends.mha.set_fastpath_enabled(False)  # other runtimes have no fused transformer layer
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fused)
