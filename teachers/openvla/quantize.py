"""4- and 8-bit weights through bitsandbytes, for the linear layers of the language model only.

Embeddings, output layer, projector and vision backbones are not quantized: they are small and most sensitive.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from rpd.envs.errors import ConfigError

Bits = Literal["int8", "nf4"]


def prepare(module: nn.Module, bits: Bits, dtype: torch.dtype) -> None:
    """Replace every linear layer of a module by a `bits` one on the meta device that computes in `dtype`.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    library = _library()
    for name, child in list(module.named_modules()):
        if isinstance(child, nn.Linear):
            size = (child.in_features, child.out_features, child.bias is not None)
            new = (
                library.nn.Linear8bitLt(*size, has_fp16_weights=False, threshold=6.0, device="meta")
                if bits == "int8"
                else library.nn.Linear4bit(*size, compute_dtype=dtype, quant_type="nf4", device="meta")
            )
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, new)


def prepared(module: nn.Module) -> bool:
    """Return whether a layer was created by `prepare`."""
    return type(module).__name__ in ("Linear8bitLt", "Linear4bit")


def parameter(module: nn.Module, tensor: Tensor) -> nn.Parameter:
    """Weight of a layer created by `prepare`, quantized on the device of `tensor`."""
    library = _library()
    if type(module).__name__ == "Linear8bitLt":
        return library.nn.Int8Params(tensor.cpu(), requires_grad=False, has_fp16_weights=False).to(tensor.device)
    return library.nn.Params4bit(tensor.cpu(), requires_grad=False, quant_type="nf4", module=module).to(tensor.device)


def _library() -> Any:
    try:
        import bitsandbytes
    except ImportError:
        raise ConfigError("4- and 8-bit weights need bitsandbytes, which is not installed: pip install bitsandbytes") from None
    return bitsandbytes
