"""The task's privileged expert, with dials that make it weak in a chosen way."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.errors import ConfigError, SpecMismatch, unknown_name
from envs.specs import EnvSpec
from teachers.base import Teacher, TeacherOutput
from teachers.registry import parse_options
from teachers.scripted import planner
from teachers.scripted.dials import PRESETS, Dials, believe, forget
from teachers.scripted.experts import EXPERTS, base_name, expert, gain, to_action
from teachers.scripted.plan import GRASP, PHASES, View
from teachers.scripted.tokens import log_prob, to_bins
from teachers.scripted.trembling import TremblingTeacher

__all__ = ["Dials", "ScriptedTeacher", "expert", "from_string"]

_ACTION = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


class ScriptedTeacher(TremblingTeacher):
    """Reads the simulator's scene and says what the expert would do, minus its imperfections.

    It has no memory: a label depends on the scene and, with noise, on the random state alone, so labels on the
    student's own states are right wherever the student goes.

    Args:
        spec: the environment.
        dials: the imperfections.
        device: where it computes.
    """

    def __init__(self, spec: EnvSpec, dials: Dials, device: torch.device | str = "cpu") -> None:
        super().__init__(spec, device)
        self.dials = dials
        self.provides = frozenset(
            {"mean", "std"}
            | ({"samples"} if dials.modes == 2 else set())
            | ({"bin_logits", "log_prob"} if dials.bins else set())
        )
        if dials.bins is not None:
            self.bin_edges = torch.linspace(-1, 1, dials.bins + 1, device=device).expand(spec.action.dim, -1)

    def check_env(self, spec: EnvSpec) -> None:
        """Refuse an environment without a scene, an unknown task, or another action space.

        Raises:
            ConfigError: a task without an expert, or a dial that the task has no use for.
            SpecMismatch: naming both sides.
        """
        task = base_name(spec.task)
        if task not in EXPERTS:
            raise ConfigError(f"teacher scripted cannot do task '{spec.task}'; it can do: {', '.join(sorted(EXPERTS))}")
        if not spec.scene:
            raise SpecMismatch(f"teacher scripted needs the scene; {spec.task} does not offer it to teachers")
        if spec.action.names != _ACTION or spec.action.frame != "base":
            raise SpecMismatch(
                f"teacher scripted acts in ({' '.join(_ACTION)}), base frame; "
                f"{spec.task} has ({' '.join(spec.action.names)}), {spec.action.frame} frame"
            )
        phases = EXPERTS[task].phases
        if self.dials.modes == 2 and GRASP not in phases:
            raise ConfigError(f"teacher scripted: modes=2 are two ways to grasp; {spec.task} has no grasp")
        if self.dials.fail is not None and PHASES.index(self.dials.fail) not in phases:
            names = ", ".join(PHASES[phase] for phase in phases)
            raise ConfigError(f"teacher scripted: {spec.task} has no phase '{self.dials.fail}'; it has: {names}")
        if spec.task != self._spec.task:
            raise SpecMismatch(f"teacher scripted was made for {self._spec.task}; the environment is {spec.task}")

    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Label N observations. Only ``obs["privileged"]`` is read.

        With two modes, the mean averages them, and `samples` hold one mode each; with bins, both are in these.
        """
        first, second = self._modes(obs)
        n = len(first)
        std = spread = torch.full_like(first, self.dials.declared_std)
        valid = torch.ones(n, dtype=torch.bool, device=first.device)
        if second is None:
            answer = TeacherOutput(self._disturb(first), valid, std)
        else:
            pick = torch.rand(n, self.dials.samples, 1, generator=self._rng, device=self._device) < 0.5
            samples = torch.where(pick, first[:, None], second[:, None])
            # Variance of an even mixture: s^2 + ((a - b) / 2)^2
            std = (std.square() + ((first - second) / 2).square()).sqrt()
            answer = TeacherOutput(self._disturb((first + second) / 2), valid, std, samples=self._disturb(samples))
        if self.bin_edges is not None and self.wanted & {"bin_logits", "log_prob"}:
            ways = (0,) if second is None else ((first - second) / 2, (second - first) / 2)
            modes = [to_bins(answer.mean + way, spread, self.bin_edges) for way in ways]
            answer.bin_logits = torch.stack(modes).logsumexp(0) - math.log(len(modes))
            if student_action is not None:
                answer.log_prob = log_prob(answer.bin_logits, self.bin_edges, answer.mean[:, -1], student_action)
        return answer

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Act [N, 7] as badly as it labels; with two modes, in one of them."""
        first, second = self._modes(obs)
        if second is None:
            return self._disturb(first)
        pick = torch.rand(len(first), 1, generator=self._rng, device=self._device) < 0.5
        return self._disturb(torch.where(pick, first, second))

    def _modes(self, obs: TensorDict) -> tuple[Tensor, Tensor | None]:
        """The noise-free action [N, 7], and with two modes its alternative."""
        truth = obs["privileged"].to(self._device)
        task = self._spec.task
        of_task, speed = EXPERTS[base_name(task)], gain(task, self._spec.embodiment.descriptor.get("delay", 0))
        view = View(believe(truth, self.dials, of_task.contact))

        def mode(second: bool) -> Tensor:
            plan = forget(of_task.plan(view, second, self.dials.rise), truth, self.dials)
            return to_action(plan, view, self._spec.action, speed)

        return mode(False), mode(True) if self.dials.modes == 2 else None

    def _disturb(self, action: Tensor) -> Tensor:
        """Add this label's noise to actions [..., 7]; they stay in [-1, 1]."""
        if self.dials.noise:
            noise = self._noise(action)
            noise[..., 6] = 0
            action = (action + self.dials.noise * noise).clamp(-1, 1)
        if self.dials.flip:
            flip = torch.rand(action.shape[:-1], generator=self._rng, device=self._device) < self.dials.flip
            action = torch.cat([action[..., :6], torch.where(flip, -action[..., 6], action[..., 6])[..., None]], -1)
        return action


def from_string(argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device) -> Teacher:
    """Build a scripted teacher: of navigation a planner, else an expert of manipulation.

    Args:
        argument: a preset (``noisy``, ``biased``, ``forgetful``), or None for the expert.
        options: dials; they override the preset's.
        spec: the environment.
        device: where it computes.

    Raises:
        ConfigError: an unknown preset or dial, a preset that the task has none of, or a value out of range.
    """
    if spec.course:
        return planner.from_string(argument, options, spec, device)
    preset = {} if argument is None else _preset(argument, spec.task)
    return ScriptedTeacher(spec, parse_options(Dials, {**preset, **options}, "scripted"), device)


def _preset(name: str, task: str) -> Mapping[str, str]:
    """Dials of a preset, those of the task itself before those of all that are called so."""
    if name not in PRESETS:
        raise unknown_name("preset of teacher scripted", name, PRESETS)
    base = base_name(task)
    if base not in EXPERTS:
        return {}  # check_env refuses the task
    dials = PRESETS[name].get(task, PRESETS[name].get(base))
    if dials is None:
        known = ", ".join(preset for preset, tasks in PRESETS.items() if task in tasks or base in tasks)
        raise ConfigError(f"teacher scripted has no preset '{name}' for {task}: use {known}, or dials, e.g. scripted:noise=0.5")
    return dials
