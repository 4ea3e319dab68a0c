"""Options of teachers, and one-line refusals of bad ones."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field

from rpd.envs.errors import ConfigError
from rpd.teachers import registry, zoo
from rpd.teachers.families import FAMILIES
from rpd.teachers.registry import Options, parse_options


class ErrorOptions(Options):
    noise: float = Field(0.0, ge=0, le=1)
    modes: int = Field(1, gt=0)
    kind: Literal["a", "b"] = "a"


class NoOptions(Options):
    pass


def test_options_are_typed():
    assert parse_options(ErrorOptions, {"noise": "0.5", "modes": "2", "kind": "b"}, "x") == ErrorOptions(
        noise=0.5, modes=2, kind="b"
    )
    assert parse_options(ErrorOptions, {}, "x") == ErrorOptions()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "2"}, r"teacher scripted: noise=2: .*number, minimum 0, maximum 1"),
        ({"noise": "nan"}, r"noise=nan: .*finite"),
        ({"noise": "much"}, r"noise=much: .*number"),
        ({"modes": "0"}, r"modes=0: .*integer, above 0"),
        ({"kind": "c"}, r"kind=c: .*'a' or 'b'"),
        ({"niose": "1"}, r"'niose': did you mean noise"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse_options(ErrorOptions, options, "scripted")
    assert "\n" not in str(error.value)


def test_family_without_options():
    with pytest.raises(ConfigError, match="it has no options"):
        parse_options(NoOptions, {"a": "1"}, "runs/x")


def test_unknown_family_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown teacher 'scriptd': did you mean scripted"):
        registry.make("scriptd:noise=1", spec=None)


def test_list_teachers():
    patterns = [pattern for pattern, _ in registry.list_teachers()]
    names = ["RUN", *FAMILIES, *(f"zoo/{model}" for model in zoo.MODELS)]
    assert all(p.startswith(name) for p, name in zip(patterns, names, strict=True))
