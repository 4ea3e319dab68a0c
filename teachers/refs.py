"""Policy references: one grammar for every policy and teacher, on the command line, in configurations and in Python.

================================  ==================================================================
``zero``, ``random``              baselines
``FAMILY[:ARGUMENT][,K=V]...``    a teacher of a registered family, e.g. ``scripted:noisy``, ``openvla:FOLDER``
``remote:URL[,URL]...[,K=V]...``  a policy server, or several replicas of one: a ``URL`` starts with ws:// or wss://
``zoo/NAME[,K=V]...``             a shipped teacher
``PATH[,K=V]...``                 a run, a checkpoint, a policy folder or an exported folder
================================  ==================================================================

Names take precedence: write ``./PATH`` for a path that looks like one of the first three. A `Path` object is always a path.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from rpd.envs.errors import ConfigError
from rpd.envs.options import keyed
from rpd.envs.user_files import unknown
from rpd.students.io.outputs import similar_runs
from rpd.teachers import zoo
from rpd.teachers.families import FAMILIES

BASELINES = ("zero", "random")
"""Policies that ignore observations."""
SCHEMES = ("ws://", "wss://")
"""Prefixes of addresses of policy servers. An option never starts like one."""
OLD_PREFIXES = ("teacher", "policy")
"""Prefixes of version 0.1; such references are refused with today's form."""


@dataclass(frozen=True)
class PolicyRef:
    """A parsed policy reference.

    Attributes:
        text: canonical form; parses to the same reference.
        family: a key of `FAMILIES`, or one of `BASELINES`; None: a path.
        argument: the part after the family's colon, or the path.
        options: the parts after the commas.
    """

    text: str
    family: str | None
    argument: str | None
    options: dict[str, str]

    @property
    def is_baseline(self) -> bool:
        """Whether it is ``zero`` or ``random``."""
        return self.family in BASELINES

    @property
    def is_teacher(self) -> bool:
        """Whether it is a teacher of a family or a shipped one; trained policies are paths."""
        return self.family is not None and not self.is_baseline

    @property
    def path(self) -> Path | None:
        """The path, which may not exist; None for names."""
        return Path(self.argument or "") if self.family is None else None


def parse(ref: str | Path) -> PolicyRef:
    """Parse a policy reference, without looking for its files.

    >>> parse("runs/x").path
    PosixPath('runs/x')
    >>> parse("scripted:noise=0.5,bias=0.02").options
    {'noise': '0.5', 'bias': '0.02'}

    A path may contain commas if it exists: the longest existing path is used.

    Raises:
        ConfigError: a reference of version 0.1, an option without a value or given twice, an unknown model of the zoo, or a
            reference with two possible paths that exist.
    """
    if isinstance(ref, Path):
        return PolicyRef(_as_path(str(ref)), None, str(ref), {})
    text = ref.strip()
    if not text:
        raise ConfigError("empty policy reference: name a run, a policy folder or a teacher, e.g. scripted:noisy")
    family, rest = _family(text), text[len(_family(text)) :]
    if family in FAMILIES:
        argument, parts = _argument(text, rest[1:], rest[:1])
        return PolicyRef(text, family, argument, _options(text, parts))
    if family in BASELINES:
        if rest:
            raise ConfigError(f"{text}: {family} has no options")
        return PolicyRef(text, family, None, {})
    if text.startswith(zoo.PREFIX):
        name, *parts = text.split(",")
        return PolicyRef(text, *zoo.resolve(name.strip()), _options(text, parts))
    if family in OLD_PREFIXES and rest.startswith(":"):
        raise ConfigError(f"{text} is written {_today(text)} now")
    parts = text.split(",")
    length = _path_parts(text, parts)
    return PolicyRef(text, None, ",".join(parts[:length]), _options(text, parts[length:]))


def trained_path(ref: str | Path | None, role: str = "policy") -> Path | None:
    """Return the path of a reference to a trained or exported policy; None for a name, or for None.

    Args:
        ref: the reference.
        role: the noun of messages, e.g. ``"teacher"``.

    Raises:
        ConfigError: see `parse`; or the path does not exist: names the nearest references.
    """
    if ref is None:
        return None
    parsed = parse(ref)
    if parsed.path is not None and not parsed.path.exists():
        raise _missing(parsed, role)
    return parsed.path


def required_path(ref: str | Path, role: str = "policy") -> Path:
    """Return the path of a reference that can only be a trained policy, and has no options.

    Raises:
        ConfigError: see `trained_path`; or it is a name, or has options.
    """
    path, parsed = trained_path(ref, role), parse(ref)
    if path is None:
        raise ConfigError(f"{role} {parsed.text}: not a trained policy: name a run, a checkpoint or a policy folder")
    if parsed.options:
        raise ConfigError(f"{role} {parsed.text}: no options apply here: leave out {', '.join(parsed.options)}")
    return path


def addresses(argument: str) -> list[str]:
    """Addresses in the argument of a reference to policy servers.

    >>> addresses("ws://a:8000,ws://b:8000")
    ['ws://a:8000', 'ws://b:8000']
    """
    return argument.split(",")


def teacher_of(ref: str | None) -> str | None:
    """Return a reference if it is a teacher of a family or a shipped one; None for a path, a baseline or None."""
    return ref if ref is not None and parse(ref).is_teacher else None


def _missing(ref: PolicyRef, role: str) -> ConfigError:
    runs = similar_runs(Path(ref.argument or ""))
    if "/" in ref.text and not runs:
        return ConfigError(
            f"{ref.argument}: does not exist: expected a run, a checkpoint or a policy folder, or a name of `rpd list teachers`"
        )
    names = [*FAMILIES, *BASELINES, *(zoo.PREFIX + model for model in zoo.MODELS)]
    return unknown(role, ref.text if runs else _family(ref.text), [*names, *runs])


def _family(text: str) -> str:
    return re.split("[:,]", text, maxsplit=1)[0].strip()


def _argument(text: str, rest: str, separator: str) -> tuple[str | None, list[str]]:
    """Split the part after a family's name into its argument and its options."""
    parts = rest.split(",") if rest else []
    if not parts or separator != ":" or re.match(r"\w+=", parts[0]):
        return None, parts
    if parts[0].strip().startswith(SCHEMES):
        urls = [part.strip() for part in parts if part.strip().startswith(SCHEMES)]
        return ",".join(urls), [part for part in parts if part.strip() not in urls]
    length = _path_parts(text, parts)
    return ",".join(parts[:length]) or None, parts[length:]


def _options(text: str, parts: list[str]) -> dict[str, str]:
    return keyed(parts, f"'{text}'", "key=value")


def _path_parts(text: str, parts: list[str]) -> int:
    """Number of comma-separated parts that form the argument: 1, or more if these are a path that exists.

    Raises:
        ConfigError: two such paths exist.
    """
    found = [i for i in range(1, len(parts) + 1) if parts[0] and os.path.exists(",".join(parts[:i]))]
    if len(found) > 1:
        paths = " and ".join(f"'{','.join(parts[:i])}'" for i in found)
        raise ConfigError(f"'{text}': can mean {paths}, which both exist: rename one")
    return found[0] if found else 1


def _as_path(path: str) -> str:
    """Write a path so that it is not parsed as a name."""
    is_name = _family(path) in (*FAMILIES, *BASELINES, *OLD_PREFIXES) or path.startswith(zoo.PREFIX)
    return f"./{path}" if is_name else path


def _today(text: str) -> str:
    """Rewrite a reference of version 0.1: ``teacher:scripted``, ``policy:runs/x`` or ``teacher:policy:runs/x``."""
    rest = text.removeprefix("teacher:")
    return _as_path(rest.removeprefix("policy:")) if rest.startswith("policy:") else rest
