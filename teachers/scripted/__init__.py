"""Privileged experts for each task, optionally with errors of chosen kinds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.errors import ConfigError, SpecMismatch, unknown_name
from rpd.envs.specs import EnvSpec
from rpd.teachers.base import Description, Input, Teacher, TeacherOutput
from rpd.teachers.registry import parse_options
from rpd.teachers.scripted import navigation
from rpd.teachers.scripted.binned import log_prob, to_bins
from rpd.teachers.scripted.expert_errors import PRESETS, ExpertErrors, apply_failure, perceived_state
from rpd.teachers.scripted.experts import EXPERTS, base_name, expert, gain, to_action
from rpd.teachers.scripted.noisy_teacher import NoisyTeacher
from rpd.teachers.scripted.plan import GRASP, PHASES, View
from rpd.teachers.vla.action_table import describe_own_actions

__all__ = ["ExpertErrors", "ScriptedTeacher", "expert", "from_string"]

_ACTION = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


class ScriptedTeacher(NoisyTeacher):
    """Expert on the simulator's privileged scene, with optional errors.

    It has no memory: a label depends only on the scene and, with noise, on the random state. Labels are therefore correct in
    any state that the student reaches.

    Args:
        spec: the environment.
        errors: the expert's errors.
        device: device for the computation.
    """

    def __init__(self, spec: EnvSpec, errors: ExpertErrors, device: torch.device | str = "cpu") -> None:
        super().__init__(spec, device)
        self.errors = errors
        self.output_fields = frozenset(
            {"mean", "std"}
            | ({"samples"} if errors.modes == 2 else set())
            | ({"bin_logits", "log_prob"} if errors.bins else set())
        )
        if errors.bins is not None:
            self.bin_edges = torch.linspace(-1, 1, errors.bins + 1, device=device).expand(spec.action.dim, -1)

    def check_env(self, spec: EnvSpec) -> None:
        """Refuse an environment without a scene, with an unknown task, or with another action space.

        Raises:
            ConfigError: a task without an expert, or an error that does not apply to the task.
            SpecMismatch: another action space or task; names both sides.
        """
        task = base_name(spec.task)
        if task not in EXPERTS:
            raise ConfigError(f"teacher scripted has no expert for task '{spec.task}'; it has: {', '.join(sorted(EXPERTS))}")
        if not spec.scene:
            raise SpecMismatch(f"teacher scripted needs the scene; {spec.task} does not provide it")
        if spec.action.names != _ACTION or spec.action.frame != "base":
            raise SpecMismatch(
                f"teacher scripted acts in ({' '.join(_ACTION)}), base frame; "
                f"{spec.task} has ({' '.join(spec.action.names)}), {spec.action.frame} frame"
            )
        phases = EXPERTS[task].phases
        if self.errors.modes == 2 and GRASP not in phases:
            raise ConfigError(f"teacher scripted: modes=2 are two ways to grasp; {spec.task} has no grasp")
        if self.errors.fail is not None and PHASES.index(self.errors.fail) not in phases:
            names = ", ".join(PHASES[phase] for phase in phases)
            raise ConfigError(f"teacher scripted: {spec.task} has no phase '{self.errors.fail}'; it has: {names}")
        if spec.task != self._spec.task:
            raise SpecMismatch(f"teacher scripted was made for {self._spec.task}; the environment is {spec.task}")

    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Label N observations; reads only ``obs["privileged"]``.

        With two modes, the mean is their average and each of `samples` comes from one mode; `bin_logits` cover both.
        """
        first, second = self._modes(obs)
        n = len(first)
        std = spread = torch.full_like(first, self.errors.declared_std)
        valid = torch.ones(n, dtype=torch.bool, device=first.device)
        if second is None:
            answer = TeacherOutput(self._disturb(first), valid, std)
        else:
            pick = torch.rand(n, self.errors.samples, 1, generator=self._rng, device=self._device) < 0.5
            samples = torch.where(pick, first[:, None], second[:, None])
            # Variance of an even mixture: s^2 + ((a - b) / 2)^2
            std = (std.square() + ((first - second) / 2).square()).sqrt()
            answer = TeacherOutput(self._disturb((first + second) / 2), valid, std, samples=self._disturb(samples))
        if self.bin_edges is not None and self.requested_fields & {"bin_logits", "log_prob"}:
            ways = (0,) if second is None else ((first - second) / 2, (second - first) / 2)
            modes = [to_bins(answer.mean + way, spread, self.bin_edges) for way in ways]
            answer.bin_logits = torch.stack(modes).logsumexp(0) - math.log(len(modes))
            if student_action is not None:
                answer.log_prob = log_prob(answer.bin_logits, self.bin_edges, answer.mean[:, -1], student_action)
        return answer

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return the actions [N, 7], with the same errors as labels; with two modes, of a random one."""
        first, second = self._modes(obs)
        if second is None:
            return self._disturb(first)
        pick = torch.rand(len(first), 1, generator=self._rng, device=self._device) < 0.5
        return self._disturb(torch.where(pick, first, second))

    def _modes(self, obs: TensorDict) -> tuple[Tensor, Tensor | None]:
        """The action without noise [N, 7], and with two modes the alternative.

        Computed in double precision and rounded once: in single precision, vectorized functions round differently depending on
        the row's position in the batch, contacts amplify the difference, and an episode would depend on the batch size.
        """
        truth = obs["privileged"].to(self._device, torch.float64)
        task = self._spec.task
        of_task, speed = EXPERTS[base_name(task)], gain(task, self._spec.embodiment.descriptor.get("delay", 0))
        view = View(perceived_state(truth, self.errors, of_task.contact))

        def mode(second: bool) -> Tensor:
            plan = apply_failure(of_task.plan(view, second, self.errors.early_lift), truth, self.errors)
            return to_action(plan, view, self._spec.action, speed).float()

        return mode(False), mode(True) if self.errors.modes == 2 else None

    def _disturb(self, action: Tensor) -> Tensor:
        """Add noise to the actions [..., 7] of a label; they stay in [-1, 1]."""
        if self.errors.noise:
            noise = self._noise(action)
            noise[..., 6] = 0
            action = (action + self.errors.noise * noise).clamp(-1, 1)
        if self.errors.gripper_error_rate:
            flip = torch.rand(action.shape[:-1], generator=self._rng, device=self._device) < self.errors.gripper_error_rate
            action = torch.cat([action[..., :6], torch.where(flip, -action[..., 6], action[..., 6])[..., None]], -1)
        return action


def from_string(argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device) -> Teacher:
    """Build a scripted teacher: a planner for navigation tasks, else a manipulation expert.

    Args:
        argument: a preset (``noisy``, ``biased``, ``forgetful``), or None for the expert.
        options: fields of `ExpertErrors`; they override the preset.
        spec: the environment.
        device: device for the computation.

    Raises:
        ConfigError: an unknown preset or option, a preset without an entry for the task, or a value out of range.
    """
    if spec.course:
        return navigation.from_string(argument, options, spec, device)
    preset = {} if argument is None else _preset(argument, spec.task)
    return ScriptedTeacher(spec, parse_options(ExpertErrors, {**preset, **options}, "scripted"), device)


def describe(argument: str | None, options: dict[str, str], spec: EnvSpec, instruction: str) -> Description:
    """See `rpd.teachers.registry.describe`.

    Raises:
        ConfigError, SpecMismatch: see `from_string` and `check_env`.
    """
    teacher = from_string(argument, options, spec, torch.device("cpu"))
    teacher.check_env(spec)
    assert isinstance(teacher, ScriptedTeacher | navigation.PlannerTeacher) and spec.layout is not None
    weak = teacher.errors.model_dump(exclude_defaults=True)
    facts = {
        "expert": base_name(spec.task),
        "errors": ", ".join(f"{name}={value}" for name, value in weak.items()) or "none",
        "output fields": ", ".join(sorted(teacher.output_fields)),
    }
    fields = ", ".join(f"{name} ({part.stop - part.start})" for name, part in spec.layout.fields.items())
    given = Input("privileged", f"the simulator: {fields}", f"{spec.layout.dim} numbers in SI units; no image, no instruction")
    return describe_own_actions(facts, [given], spec, teacher.name)


def _preset(name: str, task: str) -> Mapping[str, str]:
    """Options of a preset for a task, or for its base name."""
    if name not in PRESETS:
        raise unknown_name("preset of teacher scripted", name, PRESETS)
    base = base_name(task)
    if base not in EXPERTS:
        return {}  # check_env refuses the task
    errors = PRESETS[name].get(task, PRESETS[name].get(base))
    if errors is None:
        known = ", ".join(preset for preset, tasks in PRESETS.items() if task in tasks or base in tasks)
        raise ConfigError(
            f"teacher scripted has no preset '{name}' for {task}: use {known}, or options, e.g. scripted:noise=0.5"
        )
    return errors
