"""What a policy server answers: requests in, answers out, with every field checked. Nothing here knows of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from tensordict import TensorDict
from torch import Tensor

from envs.errors import ConfigError, unknown_name
from envs.specs import EnvSpec, ObsSpec
from teachers.base import Teacher, Views
from teachers.wire.client import PROTOCOL
from teachers.wire.codec import Message

MAX_PROMPT = 4096  # characters


class PolicyService:
    """Answers requests with a teacher's labels and actions. One request at a time.

    Args:
        teacher: who answers.
        spec: the environment it was made for.
        name: what clients are told is served.
        views: what clients are told to show it, see `teachers.registry.needs`.
    """

    def __init__(self, teacher: Teacher, spec: EnvSpec, name: str, views: Views | None = None) -> None:
        self.teacher, self.spec, self.name, self.views = teacher, spec, name, views or Views()
        # A teacher that looks for itself takes images of any camera and size, and says itself which one it misses.
        self.required = {} if teacher.looks else dict(spec.observations)
        self.optional = {"state": spec.observations["state"]} if teacher.looks and "state" in spec.observations else {}
        if spec.layout is not None:  # only scripted teachers look at it, and only a simulator can send it
            self.optional["privileged"] = ObsSpec(shape=(spec.layout.dim,), dtype="float32")
        self._requests: dict[str, Callable[[Message], Message]] = {
            "label": self._label,
            "reset": self._reset,
            "seed": self._seed,
            "check": self._check,
        }

    def metadata(self) -> Message:
        """What a client needs to know before it asks."""
        edges = self.teacher.bin_edges
        return {
            "protocol": PROTOCOL,
            "name": self.name,
            "spec": self.spec.model_dump(mode="json"),
            "observations": [*self.required],
            "optional": [*self.optional],
            "provides": sorted(self.teacher.provides),
            "looks": self.teacher.looks,
            "views": {"cameras": [*self.views.cameras], "image_size": self.views.image_size},
            "remembers": type(self.teacher).reset is not Teacher.reset,
            "wants_all": self.teacher.wants_all,
            **({} if edges is None else {"bin_edges": edges.cpu().numpy()}),
        }

    def answer(self, message: Message) -> Message:
        """Answer one request. Without a key ``request`` it is an observation, and the answer actions: openpi's `infer`.

        Raises:
            ConfigError: the request is wrong; one line that says what would be right.
        """
        kind = message.get("request")
        with torch.inference_mode():
            if kind is None:
                return self._infer(message)
            if type(kind) is not str or kind not in self._requests:
                raise unknown_name("request", str(kind)[:40], self._requests)
            return self._requests[kind](message)

    def _infer(self, message: Message) -> Message:
        """Observation(s) -> actions [1, A], or [N, 1, A] where the prompt is a list of N."""
        prompt = message.get("prompt", "")
        batch = isinstance(prompt, list)
        prompts = _prompts(prompt if batch else [prompt])
        arrays = {key: value for key, value in message.items() if key != "prompt"}
        if not batch:
            arrays = {key: value[None] if isinstance(value, np.ndarray) else value for key, value in arrays.items()}
        action = self.teacher.act(self._obs(arrays, len(prompts)), prompts).float().cpu().numpy()
        return {"actions": action[:, None] if batch else action}

    def _label(self, message: Message) -> Message:
        """The fields of a `TeacherOutput` that the teacher fills and the client wants; by default all."""
        _fields(message, ("obs", "instructions"), ("student_action", "wanted"))
        wanted = message.get("wanted", [*self.teacher.provides])
        if not isinstance(wanted, list) or not all(type(field) is str for field in wanted):
            raise ConfigError("wanted: a list of names of fields")
        self.teacher.wanted = frozenset(wanted) & self.teacher.provides
        instructions = _prompts(message["instructions"])
        if not isinstance(message["obs"], dict):
            raise ConfigError("obs: a map of arrays, by observation key")
        obs = self._obs(message["obs"], len(instructions))
        action = message.get("student_action")
        if action is not None:
            action = _array("student_action", action, (len(instructions), self.spec.action.dim), "float32")
            action = action.to(self.teacher.device)
        label = self.teacher.label(obs, instructions, action)
        sent = self.teacher.wanted | {"mean", "valid"}
        return {name: _numpy(tensor) for name, tensor in label.tensors().items() if name in sent}

    def _reset(self, message: Message) -> Message:
        _fields(message, ("mask",))
        mask = message["mask"]
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 1:
            raise ConfigError("mask: an array [N] of bools")
        self.teacher.reset(torch.from_numpy(mask.copy()).to(self.teacher.device))
        return {}

    def _seed(self, message: Message) -> Message:
        _fields(message, ("seed",))
        if type(message["seed"]) is not int or not 0 <= message["seed"] < 2**63:
            raise ConfigError("seed: a number from 0 to 2^63 - 1")
        self.teacher.seed(message["seed"])
        return {}

    def _check(self, message: Message) -> Message:
        """Whether the teacher fits an environment; it says itself why not."""
        _fields(message, ("spec",))
        try:
            spec = EnvSpec.model_validate(message["spec"])
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"spec: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        self.teacher.check_env(spec)
        return {}

    def _obs(self, arrays: dict[str, Any], n: int) -> TensorDict:
        """Check N observations against the spec."""
        known = self.required | self.optional
        images = [key for key in arrays if self.teacher.looks and key.startswith(("view.", "image."))]
        others = [key for key in arrays if key not in images]
        for key in others:
            if key not in known:
                raise unknown_name("observation", key[:40], known)
        for key in self.required:
            if key not in arrays:
                raise ConfigError(f"observation '{key}' is missing; expected: {', '.join(self.required)}")
        obs = {key: _array(key, arrays[key], (n, *known[key].shape), known[key].dtype) for key in others}
        obs |= {key: _array(key, arrays[key], (n, *_size(arrays[key]), 3), "uint8") for key in images}
        return TensorDict(obs, [n]).to(self.teacher.device)


def _array(name: str, value: Any, shape: tuple[int, ...], dtype: str) -> Tensor:
    """A tensor of this shape; numbers of any kind become float32, but an image is uint8 or a mistake."""
    given = f"{list(value.shape)} {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    fits = isinstance(value, np.ndarray) and value.shape == shape and (value.dtype == dtype or dtype == "float32")
    if not fits:
        raise ConfigError(f"{name}: {list(shape)} {dtype} is expected, not {given}")
    return torch.from_numpy(value if value.dtype == dtype and value.flags.writeable else value.astype(dtype))


def _size(images: Any) -> tuple[int, int]:
    """Height and width of images [N, H, W, 3]; of anything else, a size that it does not have."""
    return images.shape[1:3] if isinstance(images, np.ndarray) and images.ndim == 4 and images.size else (224, 224)


def _prompts(value: Any) -> list[str]:
    if not isinstance(value, list) or not value or not all(type(p) is str and len(p) <= MAX_PROMPT for p in value):
        raise ConfigError(f"instructions: one string per observation, of at most {MAX_PROMPT} characters")
    return value


def _fields(message: Message, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    """Refuse a request with a field missing or too many."""
    kind = message["request"]
    for field in required:
        if field not in message:
            raise ConfigError(f"request '{kind}': '{field}' is missing")
    for field in message.keys() - {"request", *required, *optional}:
        raise unknown_name(f"field of request '{kind}'", field[:40], (*required, *optional))


def _numpy(tensor: Tensor) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
