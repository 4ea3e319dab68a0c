"""Use an Octo checkpoint as a teacher: images and instructions in, samples of the environment's actions out."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec
from rpd.students.action_chunking import Chunks, RecedingHorizon, TemporalEnsemble
from rpd.students.networks.distribution import executed
from rpd.students.obs_history import History
from rpd.teachers.base import Teacher, TeacherOutput
from rpd.teachers.octo import images, weights
from rpd.teachers.octo.diffusion import DiffusionActionHead
from rpd.teachers.octo.language import Words, pad
from rpd.teachers.octo.model import Observation, Octo, Task
from rpd.teachers.octo.setup import PRIMARY, Setup
from rpd.teachers.vla.action_mapping import connect
from rpd.teachers.vla.images import camera_images

KEPT = 1024
"""Maximum number of cached instruction embeddings, as clients of a server could send any number."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class OctoTeacher(Teacher):
    """Labels with samples of the first action of a chunk: one pass of the transformer, and one batch of samples from its head.

    `mean` and `std` are statistics of the samples as executed by the environment: clipped, discrete dimensions -1 or +1, so
    that their mean is 2p - 1. Models with a deterministic head (MSE, L1) label with `mean` only. As a policy it draws one chunk
    and executes it, as the original does.

    Args:
        model: the network, frozen.
        setup: everything else about the checkpoint.
        spec: the environment.
        words: tokenizer or table for instructions.
    """

    needs_teacher_images = True

    def __init__(self, model: Octo, setup: Setup, spec: EnvSpec, words: Words) -> None:
        self.model, self.setup, self.name, self.words = model, setup, setup.name, words
        self.output_fields = frozenset({"mean", "std", "samples"} if model.head.is_random else {"mean"})
        for key in setup.cameras:
            if not any(model.cameras(tokenizer, {key: torch.empty(0)}) for tokenizer in model.tokenizers):
                raise ConfigError(f"{setup.checkpoint.name}: has no weights for {key}: it was trained without that camera")
        options = setup.options
        if isinstance(model.head, DiffusionActionHead):
            model.head.ddim_steps, model.head.embodiment_dim = options.ddim, setup.statistics.dim
        if options.compile:
            model.transformer.compile()
        self.is_stateful, self.rows_at_once = options.window > 1, options.batch
        self._embeddings: dict[str, Tensor] = {}  # [L, T5 width] by instruction
        self._begin()
        self.check_env(spec)

    def _begin(self) -> None:
        """Start with empty memory and the initial random state."""
        options = self.setup.options
        self.history = History(options.window, f"teacher {self.name}")
        self.chunks: Chunks = (
            RecedingHorizon(options.n_action_steps) if options.ensemble is None else TemporalEnsemble(options.ensemble)
        )
        self._rng = torch.Generator(self.device).manual_seed(0)

    @property
    def has_memory(self) -> bool:
        """Whether the window has several steps, or several actions of a chunk are executed."""
        options = self.setup.options
        return options.window > 1 or options.n_action_steps > 1 or options.ensemble is not None

    def new_session(self) -> OctoTeacher:
        """See `Teacher.new_session`."""
        session = copy.copy(self)
        session._begin()
        return session

    def check_env(self, spec: EnvSpec) -> None:
        """Map the actions to an environment; see `rpd.teachers.vla.action_mapping.connect`."""
        action_map = connect(self.setup.action_mapping, self.setup.statistics.dim, spec, self.name, self.setup.reach)
        gain, offset = self.setup.statistics.affine(self.setup.normalization)
        self._gain, self._offset = (
            torch.tensor(v, dtype=torch.float32, device=self.device)
            for v in (action_map.gain * gain, action_map.to_env(offset))
        )
        self._discrete = torch.tensor(spec.action.discrete, device=self.device)

    def check_instructions(self, instructions: Iterable[str]) -> None:
        """See `Teacher.check_instructions`: each needs an embedding, token ids, or the tokenizer."""
        if self.setup.options.instruction is None:
            for text in instructions:
                if text not in self.words.embeddings:
                    self.words.ids(text.strip())

    @torch.no_grad()
    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """See `Teacher.label`.

        Raises:
            ConfigError: images of a camera are missing or invalid, an instruction cannot be tokenized, or the number of
            environments
                changed although there is memory.
        """
        tokens = self._read(self._look(obs), instructions)
        shape = (self.setup.options.samples,) if self.model.head.is_random else (1,)
        chunks = self.model.head.sample(tokens, shape, self._rng)  # [S, N, H, A]
        samples = self._executed(self._to_env(chunks[..., 0, :])).transpose(0, 1)
        answer = TeacherOutput(samples.mean(1), torch.ones(len(tokens), dtype=torch.bool, device=self.device))
        if self.model.head.is_random:
            answer.samples, answer.std = samples.contiguous(), samples.std(1)
        return answer

    @torch.no_grad()
    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Execute chunks of actions [N, A], or an average of chunks; discrete dimensions are -1 or +1."""
        seen = self._look(obs)

        def draw(rows: Tensor) -> Tensor:
            some = Observation({key: frames[rows] for key, frames in seen.images.items()}, seen.valid[rows])
            tokens = self._read(some, [instructions[i] for i in rows.tolist()])
            return self._to_env(self.model.head.sample(tokens, (), self._rng))

        return self._executed(self.chunks.next(len(seen.valid), self.device, draw))

    def reset(self, mask: Tensor) -> None:
        """Clear window and chunks of episodes that ended."""
        self.history.reset(mask.to(self.device))
        self.chunks.reset(mask.to(self.device))

    def seed(self, seed: int) -> None:
        """Reset the noise generator."""
        self._rng.manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """State of the noise generator, window and chunks."""
        parts = {"history": self.history.state_dict(), "chunks": self.chunks.state_dict()}
        flat = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
        return {"rng": self._rng.get_state(), **flat}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self._rng.set_state(state["rng"].cpu())
        for part in (self.history, self.chunks):
            prefix = "history." if part is self.history else "chunks."
            part.load_state_dict({k.removeprefix(prefix): v.to(self.device) for k, v in state.items() if k.startswith(prefix)})

    def weights(self) -> dict[str, Tensor]:
        """Parameters of the network."""
        return self.model.state_dict()

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.model.device

    def _look(self, obs: TensorDict) -> Observation:
        """Images of the last time steps, at the model's input sizes."""
        now = {}
        for key, camera in self.setup.cameras.items():
            seen = camera_images(obs, camera, self.name, "Octo").to(self.device)
            area = self.setup.crop if key == PRIMARY else None
            now[key] = images.resize(seen, self.setup.checkpoint.cameras[key], area)
        return Observation(*self.history.push(now))

    def _read(self, seen: Observation, instructions: list[str]) -> Tensor:
        """Readout tokens [N, n, D] of the last time step, computed in batches."""
        said = self.setup.options.instruction
        texts = instructions if said is None else [said] * len(instructions)
        language = self._embed(texts)
        has_instruction = torch.tensor([bool(text.strip()) for text in texts], device=self.device)
        parts = []
        for rows in torch.arange(len(texts), device=self.device).split(self.setup.options.batch):
            some = Observation({key: frames[rows] for key, frames in seen.images.items()}, seen.valid[rows])
            parts.append(self.model.readout(some, Task(language[rows], has_instruction[rows])))
        return torch.cat(parts)

    def _embed(self, texts: list[str]) -> Tensor:
        """T5 embeddings [N, L, T5 width] of instructions, cached."""
        length = self.model.config.max_tokens
        if len(self._embeddings) > KEPT:
            self._embeddings.clear()
        if new := sorted(set(texts) - self._embeddings.keys()):
            known = [text for text in new if text in self.words.embeddings]
            for text in known:
                given, width = self.words.embeddings[text].to(self.device), self.model.t5.config.d_model
                if given.shape != (length, width):
                    raise ConfigError(
                        f"teacher {self.name}: the embedding of '{text}' is {list(given.shape)}, not {[length, width]}"
                    )
                self._embeddings[text] = given
            if rest := [text for text in new if text not in known]:
                ids, mask = pad([self.words.ids(text.strip()) for text in rest], length)
                vectors = self.model.embed_text(ids.to(self.device), mask.to(self.device))
                self._embeddings.update(zip(rest, vectors, strict=True))
        return torch.stack([self._embeddings[text] for text in texts])

    def _to_env(self, actions: Tensor) -> Tensor:
        """Convert normalized actions [..., A or more] to the environment's action space [..., A], without clipping."""
        return actions[..., : len(self._gain)] * self._gain + self._offset

    def _executed(self, action: Tensor) -> Tensor:
        """Actions [..., A] as the environment executes them: clipped, discrete dimensions by sign."""
        return executed(action, self._discrete)


def load_teacher(setup: Setup, spec: EnvSpec, device: torch.device) -> OctoTeacher:
    """Load the weights and build the teacher.

    Raises:
        ConfigError: see `weights.load`; or neither a tokenizer nor a table of instructions.
    """
    words = setup.words()
    if setup.options.language is None:
        words.ids(setup.options.instruction or "a")  # report a missing tokenizer before anything starts
    options = setup.options
    model = weights.load(setup.checkpoint, setup.folder, DTYPES[options.dtype], device, options.step)
    return OctoTeacher(model, setup, spec, words)
