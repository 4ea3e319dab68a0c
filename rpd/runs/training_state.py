"""Optimizer and random state as flat tensors, restored exactly."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import torch
from torch import Tensor

from rpd.envs.errors import ConfigError

_TAIL = struct.Struct("<qqd")  # numpy's Mersenne Twister after its 624 words: position, has_gauss, cached gaussian


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten an optimizer: ``<parameter index>.<state name>``, and each group's learning rate, for reference.

    On resume, hyperparameters come from the run's configuration, including the learning rate.
    """
    saved = optimizer.state_dict()
    tensors = {f"{i}.{name}": value for i, state in saved["state"].items() for name, value in state.items()}
    rates = [float(group["lr"]) for group in saved["param_groups"]]
    return {"lr": torch.tensor(rates, dtype=torch.float64), **tensors}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore `optimizer_tensors`, except for the learning rate, which stays the optimizer's own.

    Raises:
        ConfigError: the state belongs to other parameters.
    """
    saved = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name == "lr":
            continue
        index, _, key = name.partition(".")
        i = int(index)
        if i >= len(parameters) or (value.dim() > 0 and value.shape != parameters[i].shape):
            raise ConfigError(
                f"optimizer state '{name}' {list(value.shape)} does not fit the policy: made with other settings?"
            )
        state.setdefault(i, {})[key] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})


def rng_tensors(*generators: torch.Generator) -> dict[str, Tensor]:
    """Random state of torch (CPU and CUDA), numpy's global generator, and `generators`, as uint8 tensors."""
    _, words, position, has_gauss, gauss = np.random.get_state()
    numpy_state = np.asarray(words, dtype="<u4").tobytes() + _TAIL.pack(position, has_gauss, gauss)
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.frombuffer(bytearray(numpy_state), dtype=torch.uint8)}
    if torch.cuda.is_available():
        tensors |= {f"cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return tensors | {f"generator.{i}": generator.get_state() for i, generator in enumerate(generators)}


def load_rng(tensors: dict[str, Tensor], *generators: torch.Generator) -> None:
    """Restore `rng_tensors`, given the generators in the same order. CUDA states apply if the device exists.

    A generator's state cannot be transferred to another kind of device, e.g. when a run is resumed without its GPU: the new
    generator is seeded from it instead.
    """
    torch.set_rng_state(tensors["torch"])
    data = tensors["numpy"].numpy().tobytes()
    words, tail = data[: -_TAIL.size], data[-_TAIL.size :]
    np.random.set_state(("MT19937", np.frombuffer(words, dtype="<u4"), *_TAIL.unpack(tail)))
    for i in range(torch.cuda.device_count()):
        if f"cuda.{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda.{i}"], i)
    for i, generator in enumerate(generators):
        state = tensors[f"generator.{i}"]
        if state.shape == generator.get_state().shape:
            generator.set_state(state)
        else:
            generator.manual_seed(zlib.crc32(state.numpy().tobytes()))
