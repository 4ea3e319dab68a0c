"""An OpenVLA checkpoint as a teacher: images and instructions in, distributions over the environment's actions out."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.specs import EnvSpec
from teachers.base import Teacher, TeacherOutput
from teachers.bridge import connect
from teachers.looking import shown
from teachers.openvla import decode, weights
from teachers.openvla.actions import ActionBins
from teachers.openvla.model import OpenVLA
from teachers.openvla.quantize import Bits
from teachers.openvla.reading import CachedReader, Reader
from teachers.openvla.readout import Readout
from teachers.openvla.setup import Setup

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DISTRIBUTION = frozenset({"mean", "std", "bin_logits"})


class OpenVLATeacher(Teacher):
    """Labels with the distribution over 256 bins per dimension, each dimension given the greedy tokens before it.

    `mean` is the greedy action, which is how OpenVLA acts; discrete dimensions hold 2p - 1. `log_prob` is the joint
    log-density of the student's action, each dimension given the student's own before it: one more pass of D - 1 tokens
    behind the same image and prompt. Where a run wants nothing but `log_prob`, the greedy tokens are not decoded, and `mean`
    is taken from the distributions along the student's action.

    Args:
        model: the network, frozen.
        setup: everything else about the checkpoint.
        spec: the environment.
    """

    provides = frozenset({"mean", "std", "bin_logits", "log_prob"})
    looks = True

    def __init__(self, model: OpenVLA, setup: Setup, spec: EnvSpec) -> None:
        self.model, self.setup, self.name = model, setup, setup.name
        self.prompter = setup.checkpoint.prompter(setup.statistics.dim)
        options = setup.options
        self.wants_all = options.cache is not None
        eyes = (model, setup.checkpoint.processor, options.batch, setup.crop)
        self.reader = Reader(*eyes) if options.cache is None else CachedReader(*eyes, self.prompter.bos, options.cache)
        self.check_env(spec)

    def check_env(self, spec: EnvSpec) -> None:
        """Fit the actions to an environment; see `teachers.bridge.connect`."""
        action_map = connect(self.setup.bridge, self.setup.statistics.dim, spec, self.name)
        bins = ActionBins(self.model.config.vocab, self.model.config.n_action_bins)
        self.readout = Readout(bins, self.setup.statistics, action_map, spec.action.discrete, self.device)
        self.bin_edges = self.readout.edges

    @torch.no_grad()
    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """See `Teacher.label`.

        Raises:
            ConfigError: there is no image of the teacher's camera, it is no image, or an instruction is empty or too long.
        """
        student = student_action if "log_prob" in self.wanted else None
        along_own = student is None or bool(self.wanted & DISTRIBUTION)
        parts, order = [], []
        for rows, context in self._read(obs, instructions):
            fields: dict[str, Tensor] = {}
            if student is not None:
                action = student[rows].to(self.device)
                answer = decode.score(self.model, context, self.readout.tokens(action))
                fields["log_prob"] = self.readout.log_prob(self.readout.columns(answer.logits), action)
            if along_own:
                answer = decode.greedy(self.model, context, self.setup.statistics.dim)
            columns = self.readout.columns(answer.logits)
            best = self.model.config.vocab - 1 - answer.logits.argmax(-1)
            fields["mean"] = self.readout.mean(answer.tokens if along_own else best, columns)
            if "std" in self.wanted:
                fields["std"] = self.readout.std(columns)
            if "bin_logits" in self.wanted:
                fields["bin_logits"] = self.readout.bin_logits(columns)
            parts.append(fields)
            order.append(rows)
        back = torch.cat(order).argsort()
        joined = {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}
        return TeacherOutput(valid=torch.ones(len(back), dtype=torch.bool, device=self.device), **joined)

    @torch.no_grad()
    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """The greedy action [N, A]; discrete dimensions are -1 or +1."""
        parts, order = [], []
        for rows, context in self._read(obs, instructions):
            answer = decode.greedy(self.model, context, self.setup.statistics.dim)
            parts.append(self.readout.greedy(answer.tokens))
            order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def reset(self, mask: Tensor) -> None:
        """Forget the visual tokens of episodes that ended."""
        self.reader.forget(mask.to(self.device))

    def weights(self) -> dict[str, Tensor]:
        """The network's parameters."""
        return self.model.state_dict()

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.model.device

    def images(self, obs: TensorDict) -> Tensor:
        """The images that the teacher looks at, uint8 [N, H, W, 3]: its own where there are, else the student's.

        Raises:
            ConfigError: there are none, or they are no images.
        """
        return shown(obs, self.setup.camera, self.name, "OpenVLA").to(self.device)

    def _read(self, obs: TensorDict, instructions: list[str]) -> Iterator[tuple[Tensor, decode.Context]]:
        """Read what is seen and said, see `Reader.read`."""
        said = self.setup.options.instruction
        prompts = [self.prompter.ids(instruction if said is None else said) for instruction in instructions]
        return self.reader.read(self.images(obs), prompts)


def load_teacher(setup: Setup, spec: EnvSpec, device: torch.device) -> OpenVLATeacher:
    """Read the weights and build the teacher.

    Raises:
        ConfigError: see `weights.load`.
    """
    dtype, bits = precision(setup.options.dtype, device)
    return OpenVLATeacher(weights.load(setup.checkpoint, setup.folder, dtype, device, bits), setup, spec)


def precision(name: str, device: torch.device) -> tuple[torch.dtype, Bits | None]:
    """The dtype and the quantisation that `OpenVLAOptions.dtype` means on a device."""
    few: dict[str, Bits] = {"int8": "int8", "nf4": "nf4"}
    if name in few:
        return torch.bfloat16, few[name]
    return DTYPES[name if name != "auto" else "bf16" if device.type == "cuda" else "fp32"], None
