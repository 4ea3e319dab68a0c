"""Request handling of a policy server, with validation of every field; independent of the network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.errors import ConfigError, NonFiniteError, unknown_name
from rpd.envs.finite import check
from rpd.envs.specs import EnvSpec, ObsSpec
from rpd.export.actors import LIMIT, invalid_entries
from rpd.serve.sessions import Environment, Memory, Session, SessionPool
from rpd.teachers.adapters.remote_teacher import as_served
from rpd.teachers.base import CameraRequest, Teacher
from rpd.teachers.transport.client import PROTOCOL
from rpd.teachers.transport.codec import Message, as_int

MAX_PROMPT = 4096  # characters
MAX_SIDE = 2048  # pixels of an image
MAX_IMAGES = 16  # per observation
Steps = Iterator[Message | None]
"""Yields the answer last; yields None before it wherever other clients may have their turn."""


class PolicyService:
    """Answers requests with a teacher's labels and actions.

    Args:
        teacher: the served policy.
        spec: spec of its environment.
        name: name of the policy for clients.
        views: images that clients have to send, see `rpd.teachers.registry.needs`.
        max_rows: maximum observations per request, and environments per client of a stateful policy.
        warn: called with warnings for the operator.
        identity: digest of the policy, see `rpd.teachers.registry.identity`.
        max_total_rows: maximum environments over all clients of a stateful policy; None: see `SessionPool`.
    """

    def __init__(
        self,
        teacher: Teacher,
        spec: EnvSpec,
        name: str,
        camera_request: CameraRequest | None = None,
        max_rows: int = 1024,
        warn: Callable[[str], None] = lambda line: None,
        identity: str | None = None,
        max_total_rows: int | None = None,
    ) -> None:
        self.teacher, self.spec, self.name, self.camera_request = teacher, spec, name, camera_request or CameraRequest()
        self.max_rows, self.warn, self.identity = max_rows, warn, identity
        self.pool = SessionPool(teacher, name, max_rows, warn, max_total_rows)
        self._checking = threading.Lock()
        # A teacher that selects its own images accepts any camera and size, and reports missing ones itself.
        self.required = dict(spec.observations) if teacher.reads_observations else {}
        self.optional = {key: spec.observations[key] for key in ("state",) if key in spec.observations.keys() - self.required}
        if spec.layout is not None:  # read by scripted teachers only, and sent by simulators only
            self.optional["privileged"] = ObsSpec(shape=(spec.layout.dim,), dtype="float32")
        self._requests: dict[str, Callable[[Session, Message], Steps]] = {
            "label": self._label,
            "reset": self._reset,
            "seed": self._seed,
            "check": self._check,
        }

    @property
    def accepts_concurrent_requests(self) -> bool:
        """Whether requests of clients may run concurrently: each waits for another server, over its own connection."""
        return self.teacher.runs_remotely and not self.pool.is_exclusive

    def metadata(self) -> Message:
        """Metadata for clients, sent on connection."""
        edges = self.teacher.bin_edges
        return {
            "protocol": PROTOCOL,
            "name": self.name,
            "identity": self.identity,
            "spec": self.spec.model_dump(mode="json"),
            "observations": [*self.required],
            "optional": [*self.optional],
            "output_fields": sorted(self.teacher.output_fields),
            "needs_teacher_images": self.teacher.needs_teacher_images,
            "camera_request": {"cameras": [*self.camera_request.cameras], "image_size": self.camera_request.image_size},
            "remembers": self.teacher.has_memory,
            "exclusive": self.pool.is_exclusive,
            "is_stateful": self.teacher.is_stateful,
            **({} if edges is None else {"bin_edges": edges.cpu().numpy()}),
        }

    def open(self, is_open: Callable[[], bool] = lambda: True) -> Session:
        """Open a client's session. No state is allocated before its first request.

        Args:
            is_open: returns whether the client is connected.
        """
        return Session(self.pool, is_open)

    def answer(self, session: Session, message: Message) -> Steps:
        """Answer one request. A message without ``request`` is an observation, answered with actions: openpi's `infer`.

        Raises:
            ConfigError: an invalid request; states the expected value in one line.
        """
        kind = message.get("request")
        if kind is None:
            return self._infer(session, message)
        if type(kind) is not str or kind not in self._requests:
            raise unknown_name("request", str(kind)[:40], self._requests)
        return self._requests[kind](session, message)

    def _infer(self, session: Session, message: Message) -> Steps:
        """Map observation(s) to actions [1, A], or [N, 1, A] if the prompt is a list of N."""
        prompt = message.get("prompt", "")
        batch = isinstance(prompt, list)
        prompts = self._prompts(prompt if batch else [prompt])
        arrays = {key: value for key, value in message.items() if key not in ("prompt", "env_id", "reset")}
        if not batch:
            arrays = {key: value[None] if isinstance(value, np.ndarray) else value for key, value in arrays.items()}
        obs = self._obs(arrays, len(prompts))
        ended = _ended(message.get("reset"), len(prompts), batch)
        self.teacher.check_instructions(dict.fromkeys(prompts))
        memory = session.memory(_environment(message.get("env_id")) if self.teacher.has_memory else None)
        if self.teacher.has_memory:
            session.expect(memory, len(prompts))
        actions: list[Tensor] = []
        with memory.answering(len(prompts)):
            if self.teacher.has_memory:
                self._begin_step(memory, ended)
            for rows, teacher in memory.slices(len(prompts)):
                if actions:
                    yield None
                actions.append(_act(teacher, obs[rows], prompts[rows]))
            answer = torch.cat(actions).float().cpu()
            check({"action": answer}, f"policy {self.name}", {"action": self.spec.action.names}, rows="row")
        action = answer.numpy()
        yield {"actions": action[:, None] if batch else action}

    def _begin_step(self, memory: Memory, ended: Tensor | None) -> None:
        """Start new episodes where `ended` [N] is True; warn once if an episode exceeds the maximum length."""
        if ended is not None:
            memory.reset(ended)
        memory.steps += 1
        if memory.steps == self.spec.max_episode_steps + 1:
            self.warn(
                f"a client has asked for {memory.steps} actions without a reset, and an episode has "
                f"{self.spec.max_episode_steps}: {self.name} mixes episodes unless a new one is a new connection or has "
                "reset in its first observation"
            )

    def _label(self, session: Session, message: Message) -> Steps:
        """Fields of a `TeacherOutput` that the teacher provides and the client requests; by default all."""
        _fields(message, ("obs", "instructions"), ("student_action", "requested_fields"))
        requested = message.get("requested_fields", [*self.teacher.output_fields])
        if not isinstance(requested, list) or not all(type(field) is str for field in requested):
            raise ConfigError("requested_fields: a list of names of fields")
        fields = frozenset(requested) & self.teacher.output_fields
        instructions = self._prompts(message["instructions"])
        if not isinstance(message["obs"], dict):
            raise ConfigError("obs: a map of arrays, by observation key")
        obs = self._obs(message["obs"], len(instructions))
        action = message.get("student_action")
        if action is not None:
            action = _array("student_action", action, (len(instructions), self.spec.action.dim), "float32")
        self.teacher.check_instructions(dict.fromkeys(instructions))
        memory = session.memory()
        if self.teacher.is_stateful:
            session.expect(memory, len(instructions))
        labels: list[dict[str, Tensor]] = []
        with memory.answering(len(instructions)):
            for rows, teacher in memory.slices(len(instructions)):
                if labels:
                    yield None
                some = None if action is None else action[rows].to(teacher.device)
                labels.append(_labelled(teacher, fields, obs[rows], instructions[rows], some))
            answer = {name: _numpy(torch.cat([label[name] for label in labels])) for name in labels[0]}
            self._check_label(answer)
        yield answer

    def _check_label(self, answer: dict[str, np.ndarray]) -> None:
        """Raise on NaN and Inf in valid rows. Log-probabilities may be large; the client checks the sizes of fields.

        Raises:
            NonFiniteError: names the field.
        """
        valid = answer["valid"].astype(bool)
        for name, values in answer.items():
            if valid.ndim == 1 and len(values) == len(valid) and not np.isfinite(values[valid]).all():
                raise NonFiniteError(f"policy {self.name}", f"{name} of a label")

    def _reset(self, session: Session, message: Message) -> Steps:
        _fields(message, ("mask",))
        mask = message["mask"]
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 1 or not len(mask):
            raise ConfigError("mask: an array [N] of bools")
        self._check_rows(len(mask))
        if self.teacher.has_memory:
            session.reset(torch.from_numpy(mask.copy()), session.memory())
        yield {}

    def _seed(self, session: Session, message: Message) -> Steps:
        _fields(message, ("seed",))
        seed = as_int(message["seed"])
        if type(seed) is not int or not 0 <= seed < 2**62:
            raise ConfigError("seed: a number from 0 to 2^62 - 1")
        session.seed(seed)
        yield {}

    def _check(self, session: Session, message: Message) -> Steps:
        """Check that the teacher fits an environment with the actions and the state of its own.

        A teacher adapts itself to the environment that it checks: differences there would change other clients' answers.
        """
        _fields(message, ("spec",))
        try:
            spec = EnvSpec.model_validate(message["spec"])
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"spec: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        spec.check_policy(as_served(self.spec, spec, self.teacher.needs_teacher_images))
        with self._checking:  # clients share one connection if the teacher is behind another server
            self.teacher.check_env(spec)
        yield {}

    def _obs(self, arrays: dict[str, Any], n: int) -> TensorDict:
        """Validate N observations against the spec."""
        known = self.required | self.optional
        takes = ("view.", "image.") if self.teacher.needs_teacher_images else ()
        images = [key for key in arrays if key not in known and key.startswith(takes)]
        if len(images) > MAX_IMAGES:
            raise ConfigError(f"{len(images)} images in an observation, and the limit is {MAX_IMAGES}")
        others = [key for key in arrays if key not in images]
        for key in others:
            if key not in known:
                raise unknown_name("observation", key[:40], known)
        for key in self.required:
            if key not in arrays:
                raise ConfigError(f"observation '{key}' is missing; expected: {', '.join(self.required)}")
        names = {"state": self.spec.state_names}
        obs = {key: _array(key, arrays[key], (n, *known[key].shape), known[key].dtype, names.get(key, ())) for key in others}
        obs |= {key: _array(key, arrays[key], (n, *_size(arrays[key]), 3), "uint8") for key in images}
        return TensorDict(obs, [n])

    def _prompts(self, value: Any) -> list[str]:
        if not isinstance(value, list) or not value or not all(type(p) is str and len(p) <= MAX_PROMPT for p in value):
            raise ConfigError(f"instructions: one string per observation, of at most {MAX_PROMPT} characters")
        self._check_rows(len(value))
        return value

    def _check_rows(self, rows: int) -> None:
        if rows > self.max_rows:
            raise ConfigError(
                f"{rows} observations in a request, and the limit is {self.max_rows}: ask in parts, or serve with a larger "
                "--max-rows"
            )


@torch.inference_mode()
def _act(teacher: Teacher, obs: TensorDict, prompts: list[str]) -> Tensor:
    return teacher.act(obs.to(teacher.device), prompts)


@torch.inference_mode()
def _labelled(
    teacher: Teacher, fields: frozenset[str], obs: TensorDict, prompts: list[str], action: Tensor | None
) -> dict[str, Tensor]:
    teacher.requested_fields = fields
    label = teacher.label(obs.to(teacher.device), prompts, action)
    sent = fields | {"mean", "valid"}
    return {name: tensor for name, tensor in label.tensors().items() if name in sent}


def _environment(value: Any) -> Environment:
    """Validate the id of a client's environment."""
    value = as_int(value)
    if value is not None and type(value) is not int and not (type(value) is str and len(value) <= 100):
        raise ConfigError("env_id: an integer, or a name of at most 100 characters")
    return value


def _ended(value: Any, rows: int, batch: bool) -> Tensor | None:
    """Rows [N] that start an episode with this observation; None if not given."""
    if value is None:
        return None
    flags = value if isinstance(value, np.ndarray) else np.asarray([value] if type(value) in (bool, np.bool_) else 0)
    if flags.dtype != np.bool_ or flags.size != rows or (batch and not isinstance(value, np.ndarray)):
        raise ConfigError(f"reset: {f'an array [{rows}] of bools' if batch else 'true where an episode begins'}")
    return torch.from_numpy(flags.reshape(-1).copy())


def _array(name: str, value: Any, shape: tuple[int, ...], dtype: str, entries: Sequence[str] = ()) -> Tensor:
    """Convert an array of the given shape; numbers are converted to float32, images must be uint8. Rejects invalid values."""
    given = f"{list(value.shape)} {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    fits = isinstance(value, np.ndarray) and value.shape == shape and (value.dtype == dtype or dtype == "float32")
    if not fits:
        raise ConfigError(f"{name}: {list(shape)} {dtype} is expected, not {given}")
    if value.dtype.kind == "f" and (bad := invalid_entries(value, entries)):
        raise ConfigError(f"{name}: finite numbers up to {LIMIT:g} are expected, not {bad}")
    return torch.from_numpy(value if value.dtype == dtype and value.flags.writeable else value.astype(dtype))


def _size(images: Any) -> tuple[int, int]:
    """Height and width of images [N, H, W, 3]; for anything else, a placeholder that fails validation.

    Raises:
        ConfigError: the images exceed the maximum size.
    """
    if not isinstance(images, np.ndarray) or images.ndim != 4 or not images.size:
        return 224, 224
    height, width = images.shape[1:3]
    if max(height, width) > MAX_SIDE:
        raise ConfigError(f"an image of {height} x {width} pixels, and the limit is {MAX_SIDE} x {MAX_SIDE}")
    return height, width


def _fields(message: Message, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    """Raise if a request has missing or unknown fields."""
    kind = message["request"]
    for field in required:
        if field not in message:
            raise ConfigError(f"request '{kind}': '{field}' is missing")
    for field in message.keys() - {"request", *required, *optional}:
        raise unknown_name(f"field of request '{kind}'", field[:40], (*required, *optional))


def _numpy(tensor: Tensor) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
