"""An Octo checkpoint as a teacher: images and instructions in, samples of the environment's actions out."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.errors import ConfigError
from envs.specs import EnvSpec
from students.chunks import Chunks, RecedingHorizon, TemporalEnsemble
from students.history import History
from teachers.base import Teacher, TeacherOutput
from teachers.bridge import connect
from teachers.looking import shown
from teachers.octo import images, weights
from teachers.octo.diffusion import DiffusionActionHead
from teachers.octo.language import Words, pad
from teachers.octo.model import Observation, Octo, Task
from teachers.octo.setup import PRIMARY, Setup

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class OctoTeacher(Teacher):
    """Labels with samples of the first action of a chunk: the transformer runs once, its head draws all samples together.

    `mean` and `std` are those of the samples, as the environment would execute them: clipped, discrete dimensions -1 or +1, so
    that their mean is 2p - 1. A model whose head draws nothing at random (MSE, L1) labels with `mean` alone. As a policy it
    does what the original does: it draws one chunk and executes it.

    Args:
        model: the network, frozen.
        setup: everything else about the checkpoint.
        spec: the environment.
        words: how instructions become tokens.
    """

    looks = True

    def __init__(self, model: Octo, setup: Setup, spec: EnvSpec, words: Words) -> None:
        self.model, self.setup, self.name, self.words = model, setup, setup.name, words
        self.provides = frozenset({"mean", "std", "samples"} if model.head.is_random else {"mean"})
        for key in setup.cameras:
            if not any(model.cameras(tokenizer, {key: torch.empty(0)}) for tokenizer in model.tokenizers):
                raise ConfigError(
                    f"{setup.checkpoint.name}: has no weights to see {key} with: it was trained without that camera"
                )
        options = setup.options
        if isinstance(model.head, DiffusionActionHead):
            model.head.ddim_steps, model.head.embodiment_dim = options.ddim, setup.statistics.dim
        if options.compile:
            model.transformer.compile()
        self.history = History(options.window, f"teacher {self.name}")
        self.wants_all = options.window > 1
        self.chunks: Chunks = (
            RecedingHorizon(options.execute) if options.ensemble is None else TemporalEnsemble(options.ensemble)
        )
        self._rng = torch.Generator(self.device).manual_seed(0)
        self._embeddings: dict[str, Tensor] = {}  # [L, T5 width] by instruction
        self.check_env(spec)

    def check_env(self, spec: EnvSpec) -> None:
        """Fit the actions to an environment; see `teachers.bridge.connect`."""
        action_map = connect(self.setup.bridge, self.setup.statistics.dim, spec, self.name)
        gain, offset = self.setup.statistics.affine(self.setup.options.normalization)
        self._gain, self._offset = (
            torch.tensor(v, dtype=torch.float32, device=self.device)
            for v in (action_map.gain * gain, action_map.to_env(offset))
        )
        self._discrete = torch.tensor(spec.action.discrete, device=self.device)

    @torch.no_grad()
    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """See `Teacher.label`.

        Raises:
            ConfigError: there is no image of a camera, it is no image, an instruction cannot be turned into tokens, or the
                number of environments changed while there is something to remember.
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
        """Execute a chunk of actions [N, A], or an average of chunks; discrete dimensions are -1 or +1."""
        seen = self._look(obs)

        def draw(rows: Tensor) -> Tensor:
            some = Observation({key: frames[rows] for key, frames in seen.images.items()}, seen.valid[rows])
            tokens = self._read(some, [instructions[i] for i in rows.tolist()])
            return self._to_env(self.model.head.sample(tokens, (), self._rng))

        return self._executed(self.chunks.next(len(seen.valid), self.device, draw))

    def reset(self, mask: Tensor) -> None:
        """Forget what was seen, and the rest of the chunk, where episodes ended."""
        self.history.forget(mask.to(self.device))
        self.chunks.forget(mask.to(self.device))

    def seed(self, seed: int) -> None:
        """Restart the noise."""
        self._rng.manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the noise, the window and the chunks."""
        parts = {"history": self.history.state_dict(), "chunks": self.chunks.state_dict()}
        flat = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
        return {"rng": self._rng.get_state(), **flat}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue."""
        self._rng.set_state(state["rng"].cpu())
        for part in (self.history, self.chunks):
            prefix = "history." if part is self.history else "chunks."
            part.load_state_dict({k.removeprefix(prefix): v.to(self.device) for k, v in state.items() if k.startswith(prefix)})

    def weights(self) -> dict[str, Tensor]:
        """The network's parameters."""
        return self.model.state_dict()

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.model.device

    def _look(self, obs: TensorDict) -> Observation:
        """What the cameras showed in the last time steps, at the model's sizes."""
        now = {}
        for key, camera in self.setup.cameras.items():
            seen = shown(obs, camera, self.name, "Octo").to(self.device)
            area = self.setup.crop if key == PRIMARY else None
            now[key] = images.resize(seen, self.setup.checkpoint.cameras[key], area)
        return Observation(*self.history.push(now))

    def _read(self, seen: Observation, instructions: list[str]) -> Tensor:
        """Readout tokens [N, n, D] of the last time step, a batch at a time."""
        said = self.setup.options.instruction
        texts = instructions if said is None else [said] * len(instructions)
        language = self._embed(texts)
        told = torch.tensor([bool(text.strip()) for text in texts], device=self.device)
        parts = []
        for rows in torch.arange(len(texts), device=self.device).split(self.setup.options.batch):
            some = Observation({key: frames[rows] for key, frames in seen.images.items()}, seen.valid[rows])
            parts.append(self.model.readout(some, Task(language[rows], told[rows])))
        return torch.cat(parts)

    def _embed(self, texts: list[str]) -> Tensor:
        """T5's embeddings [N, L, T5 width] of instructions; each is computed once."""
        length = self.model.config.max_tokens
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
        """Normalised actions [..., A or more] in the environment's action space [..., A], as they are."""
        return actions[..., : len(self._gain)] * self._gain + self._offset

    def _executed(self, action: Tensor) -> Tensor:
        """What the environment makes of actions [..., A]: clipped, the discrete ones by sign."""
        return torch.where(self._discrete, torch.where(action >= 0, 1.0, -1.0), action.clamp(-1, 1))


def load_teacher(setup: Setup, spec: EnvSpec, device: torch.device) -> OctoTeacher:
    """Read the weights and build the teacher.

    Raises:
        ConfigError: see `weights.load`; or there is no tokenizer, and nothing in its place.
    """
    words = setup.words()
    if setup.options.language is None:
        words.ids(setup.options.instruction or "a")  # a missing tokenizer is told before anything starts
    options = setup.options
    model = weights.load(setup.checkpoint, setup.folder, DTYPES[options.dtype], device, options.step)
    return OctoTeacher(model, setup, spec, words)
