"""Use an OpenVLA checkpoint as a teacher: images and instructions in, distributions over the environment's actions out."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.errors import ConfigError
from rpd.envs.finite import nan_unless_distribution
from rpd.envs.specs import EnvSpec
from rpd.teachers.base import Teacher, TeacherOutput
from rpd.teachers.openvla import decode, weights
from rpd.teachers.openvla.action_decoder import ActionDecoder
from rpd.teachers.openvla.actions import ActionBins
from rpd.teachers.openvla.model import OpenVLA
from rpd.teachers.openvla.prefill import CachedReader, Reader
from rpd.teachers.openvla.quantize import Bits
from rpd.teachers.openvla.setup import Setup
from rpd.teachers.vla.action_mapping import connect
from rpd.teachers.vla.images import camera_images

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DISTRIBUTION = frozenset({"mean", "std", "bin_logits"})


class OpenVLATeacher(Teacher):
    """Labels with a distribution over 256 bins per dimension, each conditioned on the greedy tokens of the previous ones.

    `mean` is the greedy action, as OpenVLA acts; discrete dimensions have 2p - 1. `log_prob` is the log-density of the
    student's action, each dimension conditioned on the student's own previous ones: one more pass of D - 1 tokens with the same
    image and prompt. If only `log_prob` is requested, the greedy tokens are not decoded, and `mean` is taken from the
    distributions along the student's action.

    Args:
        model: the network, frozen.
        setup: everything else about the checkpoint.
        spec: the environment.
    """

    output_fields = frozenset({"mean", "std", "bin_logits", "log_prob"})
    needs_teacher_images = True

    def __init__(self, model: OpenVLA, setup: Setup, spec: EnvSpec) -> None:
        self.model, self.setup, self.name = model, setup, setup.name
        self.prompter = setup.prompter()
        self.is_stateful, self.rows_at_once = setup.options.cache is not None, setup.options.batch
        self.reader = self._new_reader()
        self.check_env(spec)

    def _new_reader(self) -> Reader:
        """Create a reader with empty memory."""
        options = self.setup.options
        eyes = (self.model, self.setup.checkpoint.processor, options.batch, self.setup.crop)
        return Reader(*eyes) if options.cache is None else CachedReader(*eyes, self.prompter.bos, options.cache)

    @property
    def has_memory(self) -> bool:
        """Whether visual tokens are cached between steps."""
        return self.setup.options.cache is not None

    def new_session(self) -> OpenVLATeacher:
        """See `Teacher.new_session`."""
        session = copy.copy(self)
        session.reader = self._new_reader()
        return session

    def check_env(self, spec: EnvSpec) -> None:
        """Map the actions to an environment; see `rpd.teachers.vla.action_mapping.connect`."""
        action_map = connect(self.setup.action_mapping, self.setup.statistics.dim, spec, self.name, self.setup.reach)
        bins = ActionBins(self.model.config.vocab, self.model.config.n_action_bins)
        self.decoder = ActionDecoder(bins, self.setup.statistics, action_map, spec.action.discrete, self.device)
        self.bin_edges = self.decoder.edges

    def check_instructions(self, instructions: Iterable[str]) -> None:
        """See `Teacher.check_instructions`: refuses empty and too long ones."""
        if self.setup.options.instruction is None:
            for instruction in instructions:
                self.prompter.ids(instruction)

    @torch.no_grad()
    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """See `Teacher.label`.

        Raises:
            ConfigError: images of the teacher's camera are missing or invalid, or an instruction is empty or too long.
        """
        student = student_action if "log_prob" in self.requested_fields else None
        along_own = student is None or bool(self.requested_fields & DISTRIBUTION)
        parts, order = [], []
        for rows, context in self._read(obs, instructions):
            fields: dict[str, Tensor] = {}
            if student is not None:
                action = student[rows].to(self.device)
                answer = decode.score(self.model, context, self.decoder.tokens(action))
                fields["log_prob"] = self.decoder.log_prob(self.decoder.columns(answer.logits), action)
            if along_own:
                answer = self._greedy(context)
            columns = self.decoder.columns(answer.logits)
            best = self.model.config.vocab - 1 - answer.logits.argmax(-1)
            fields["mean"] = self.decoder.mean(answer.tokens if along_own else best, columns)
            if "std" in self.requested_fields:
                fields["std"] = self.decoder.std(columns)
            if "bin_logits" in self.requested_fields:
                fields["bin_logits"] = self.decoder.bin_logits(columns)
            parts.append(fields)
            order.append(rows)
        back = torch.cat(order).argsort()
        joined = {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}
        return TeacherOutput(valid=torch.ones(len(back), dtype=torch.bool, device=self.device), **joined)

    @torch.no_grad()
    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return the greedy action [N, A]; discrete dimensions are -1 or +1."""
        parts, order = [], []
        for rows, context in self._read(obs, instructions):
            answer = self._greedy(context)
            parts.append(nan_unless_distribution(self.decoder.greedy(answer.tokens), answer.logits))
            order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def reset(self, mask: Tensor) -> None:
        """Clear cached visual tokens of episodes that ended."""
        self.reader.reset(mask.to(self.device))

    def weights(self) -> dict[str, Tensor]:
        """Parameters of the network."""
        return self.model.state_dict()

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.model.device

    def images(self, obs: TensorDict) -> Tensor:
        """Input images, uint8 [N, H, W, 3]: the teacher's own if present, else the student's.

        Raises:
            ConfigError: no images of the camera, or not images.
        """
        return camera_images(obs, self.setup.camera, self.name, "OpenVLA").to(self.device)

    def _greedy(self, context: decode.Context) -> decode.Answer:
        """Decode greedily.

        Raises:
            ConfigError: no row contains an action token. Decoded as actions, all values would be at one end of the range.
        """
        answer = decode.greedy(self.model, context, self.setup.statistics.dim)
        config = self.model.config
        acts = (answer.tokens >= config.vocab - config.n_action_bins) & (answer.tokens < config.vocab)
        if not bool((acts | answer.logits.isnan().any(-1)).any()):
            token = self.prompter.tokenizer.id_to_token(int(answer.tokens[0, 0]))
            raise ConfigError(
                f"teacher {self.name}: outputs text (first {token!r}) instead of action tokens: not an OpenVLA policy, or "
                f"trained with other prompts than prompt={self.setup.checkpoint.style(self.setup.options.prompt)}"
            )
        return answer

    def _read(self, obs: TensorDict, instructions: list[str]) -> Iterator[tuple[Tensor, decode.Context]]:
        """Process images and instructions, see `Reader.read`."""
        said = self.setup.options.instruction
        prompts = [self.prompter.ids(instruction if said is None else said) for instruction in instructions]
        return self.reader.read(self.images(obs), prompts)


def load_teacher(setup: Setup, spec: EnvSpec, device: torch.device) -> OpenVLATeacher:
    """Load the weights and build the teacher.

    Raises:
        ConfigError: see `weights.load`.
    """
    dtype, bits = precision(setup.options.dtype, device)
    return OpenVLATeacher(weights.load(setup.checkpoint, setup.folder, dtype, device, bits), setup, spec)


def precision(name: str, device: torch.device) -> tuple[torch.dtype, Bits | None]:
    """Dtype and quantization of `OpenVLAOptions.dtype` on a device."""
    few: dict[str, Bits] = {"int8": "int8", "nf4": "nf4"}
    if name in few:
        return torch.bfloat16, few[name]
    return DTYPES[name if name != "auto" else "bf16" if device.type == "cuda" else "fp32"], None
