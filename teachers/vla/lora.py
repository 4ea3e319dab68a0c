"""Low-rank adapters (Hu et al., 2021, arXiv 2106.09685) through peft, with the settings of OpenVLA's own fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from envs.errors import ConfigError

MAX_ALPHA = 16


def add(model: nn.Module, rank: int) -> None:
    """Put adapters of a rank onto every linear layer that learns, and let nothing else learn.

    Raises:
        ConfigError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError("fine-tuning with adapters needs peft, which is not installed: pip install 'rpd[vla]'") from None
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module.weight.requires_grad]
    config = LoraConfig(r=rank, lora_alpha=min(rank, MAX_ALPHA), init_lora_weights="gaussian", target_modules=layers)
    inject_adapter_in_model(config, model)


def merged(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a model by the names that they had before `add`, with adapters added to their weights."""
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
