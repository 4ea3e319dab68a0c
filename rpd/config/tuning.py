"""Search spaces of `rpd tune`: a file with a range or choices for each option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from rpd.config.applicable import inapplicable
from rpd.config.loader import Tree, change, read_text
from rpd.config.parser import option_names
from rpd.config.renamed import unknown_option
from rpd.config.schema import RunConfig
from rpd.envs import unique_yaml
from rpd.envs.errors import ConfigError

OWN = ("task", "algorithm", "seed", "eval_seed_offset", "eval_freq", "eval_episodes", "total_timesteps")
"""Options that belong to the comparison, not to the space."""
Value = bool | int | float | str | None


class Dimension(BaseModel):
    """Values of one option."""

    model_config = ConfigDict(extra="forbid")

    low: int | float | None = None
    """Lowest value; whole numbers at both ends search whole numbers."""
    high: int | float | None = None
    """Highest value."""
    log: bool = False
    """Whether the scale is logarithmic."""
    choices: tuple[Value, ...] = ()
    """Values without an order, in place of a range."""

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        ends = self.low is not None and self.high is not None
        if bool(self.choices) == ends or (self.choices and self.log) or (self.low is None) != (self.high is None):
            raise ValueError("has either low and high (and log), or choices")
        if self.low is not None and self.high is not None and not (0 if self.log else self.low - 1) < self.low < self.high:
            raise ValueError("low has to be below high, and above 0 with log")
        return self

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Values that all have to be valid."""
        return self.choices or tuple(end for end in (self.low, self.high) if end is not None)

    def holds(self, value: Any) -> bool:
        """Whether a value is in the space."""
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, (int, float)) or self.low is None or self.high is None:
            return False
        return self.low <= value <= self.high


Space = dict[str, Dimension]


def read_space(file: Path) -> Space:
    """Read a search space; the shipped ones are in ``configs/tuning/``.

    Raises:
        ConfigError: the file is missing, or an entry is invalid; names it.
    """
    tree = unique_yaml.load(read_text(file), str(file))
    if not isinstance(tree, dict) or not tree:
        raise ConfigError(
            f"{file}: a search space has options, e.g. 'ppo.learning_rate: {{low: 1.0e-4, high: 1.0e-3, log: true}}'"
        )
    space = {}
    for name, entry in tree.items():
        if name not in (names := option_names(RunConfig)):
            raise unknown_option(f"option in {file}", str(name), names)
        if name in OWN:
            raise ConfigError(f"{file}: {name} is the same for all trials of a search: set it on the command line")
        try:
            space[str(name)] = Dimension.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, (name, *first["loc"])))
            raise ConfigError(f"{file}: {place}: {first['msg'].removeprefix('Value error, ')}") from None
    return space


def check_space(space: Space, config: RunConfig, file: Path) -> None:
    """Check that the run reads every option of the space, with all its values.

    Raises:
        ConfigError: names the option.
    """
    unread = inapplicable(config)
    for name, dimension in space.items():
        if any(name == other or name.startswith(f"{other}.") for other in unread):
            raise ConfigError(f"{file}: {name} has no effect on {config.task} with algorithm {config.algorithm}: leave it out")
        for value in dimension.extremes:
            change(config, nested({name: value}))


def nested(values: dict[str, Any]) -> Tree:
    """Turn dotted names into the tree of a settings file: ``{"ppo.gamma": 0.9}`` -> ``{"ppo": {"gamma": 0.9}}``."""
    tree: Tree = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return tree


def value_of(config: RunConfig, name: str) -> Any:
    """Value of an option by its dotted name."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value
