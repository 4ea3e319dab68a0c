"""Map parameter names and shapes between this package and the original's parameter tree."""

from __future__ import annotations

import re

from torch import Tensor

TREE = "octo_transformer"
BLOCKS = f"{TREE}/BlockTransformer_0/Transformer_0"
T5 = f"{TREE}/task_tokenizers_language/hf_model"

# Applied in order to our name; remaining dots become slashes.
RULES = [
    (r"^transformer\.norm\.", f"{BLOCKS}/encoder_norm."),
    (r"^transformer\.blocks\.(\d+)\.", rf"{BLOCKS}/encoderblock_\1."),
    (r"^stems\.(\w+)\.", rf"{TREE}/observation_tokenizers_\1/SmallStem16_0."),
    (r"^projections\.(\w+)\.", rf"{TREE}/\1_projection."),
    (r"^positions\.(\w+)$", rf"{TREE}/\1_pos_embedding"),
    (r"^head\.pool\.", "heads_HEAD/map_head."),
    (r"^head\.(mean|vocab)\.", r"heads_HEAD/\1_proj."),
    (r"^head\.frequencies$", "heads_HEAD/diffusion_model/time_preprocess/kernel"),
    (r"^head\.time_up\.", "heads_HEAD/diffusion_model/cond_encoder/Dense_0."),
    (r"^head\.time_down\.", "heads_HEAD/diffusion_model/cond_encoder/Dense_1."),
    (r"^head\.inputs\.", "heads_HEAD/diffusion_model/reverse_network/Dense_0."),
    (r"^head\.outputs\.", "heads_HEAD/diffusion_model/reverse_network/Dense_1."),
    (r"^head\.blocks\.(\d+)\.", r"heads_HEAD/diffusion_model/reverse_network/MLPResNetBlock_\1."),
    (r"\.convs\.(\d+)\.", r"/StdConv_\1."),
    (r"\.norms\.(\d+)\.weight", r"/GroupNorm_\1/scale"),
    (r"\.norms\.(\d+)\.", r"/GroupNorm_\1."),
    (r"\.attention\.", "/MultiHeadDotProductAttention_0."),
    (r"\.mlp\.", "/MlpBlock_0."),
    (r"\.up\.", "/Dense_0."),
    (r"\.down\.", "/Dense_1."),
    (r"encoder_norm\.weight", "encoder_norm/scale"),
    (r"\.norm2\.weight", "/LayerNorm_1/scale"),
    (r"\.norm1?\.weight", "/LayerNorm_0/scale"),
    (r"\.norm2\.", "/LayerNorm_1."),
    (r"\.norm1?\.", "/LayerNorm_0."),
    (r"\.weight$", "/kernel"),
]
T5_RULES = [(r"^t5\.", f"{T5}."), (r"(shared|relative_attention_bias)\.weight$", r"\1/embedding")]
T5_RULES += [(r"(?<!norm)\.weight$", "/kernel")]


def original(name: str, head: str) -> str:
    """Path in the original's tree, with slashes, of a parameter.

    Args:
        name: name in ``Octo.named_parameters``.
        head: name of the head in the configuration.
    """
    for pattern, replacement in T5_RULES if name.startswith("t5.") else RULES:
        name = re.sub(pattern, replacement, name)
    return name.replace(".", "/").replace("heads_HEAD", f"heads_{head}")


def from_original(path: str, tensor: Tensor) -> Tensor:
    """Convert an original array to our shape, as a view if possible.

    Original dense kernels are (in, out), convolutions (height, width, in, out), attention has axes (heads, head width).
    """
    *_, module, leaf = path.split("/")
    if leaf == "bias":
        return tensor.flatten()
    if leaf != "kernel" or module == "time_preprocess":
        return tensor
    if tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1)
    if tensor.ndim == 3:
        return (tensor.flatten(0, 1) if module == "out" else tensor.flatten(1)).T
    return tensor.T


def to_original(path: str, tensor: Tensor, heads: int) -> Tensor:
    """Inverse of `from_original`, with the transformer's number of `heads`."""
    *_, module, leaf = path.split("/")
    in_heads = "MultiHeadDotProductAttention" in path
    if leaf == "bias":
        return tensor.unflatten(0, (heads, -1)) if in_heads and module != "out" else tensor
    if leaf != "kernel" or module == "time_preprocess":
        return tensor
    if tensor.ndim == 4:
        return tensor.permute(2, 3, 1, 0)
    if in_heads:
        return tensor.T.unflatten(0 if module == "out" else 1, (heads, -1))
    return tensor.T
