"""Low-rank adapters (Hu et al., 2021, arXiv 2106.09685) through peft, with the settings of OpenVLA's fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from rpd.envs.errors import missing_package

MAX_ALPHA = 16


def add(model: nn.Module, rank: int) -> None:
    """Add adapters of a rank to every trainable linear layer, and freeze everything else.

    Raises:
        ConfigError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise missing_package("fine-tuning with adapters", "peft", "vla") from None
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module.weight.requires_grad]
    config = LoraConfig(r=rank, lora_alpha=min(rank, MAX_ALPHA), init_lora_weights="gaussian", target_modules=layers)
    inject_adapter_in_model(config, model)


def merged(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters of a model by their names before `add`, with the adapters merged into the weights."""
    for name, parameter in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        if ".lora_" in name:
            continue
        if path.endswith(".base_layer"):
            layer = model.get_submodule(path.removesuffix(".base_layer"))
            delta = layer.get_delta_weight("default") if leaf == "weight" else 0  # type: ignore[operator]
            yield f"{path.removesuffix('.base_layer')}.{leaf}", (parameter + delta).detach()
        else:
            yield name, parameter.detach()
