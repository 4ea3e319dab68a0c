"""The grammar of teacher names, and one-line refusals of what does not follow it."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field

from envs.errors import ConfigError
from teachers import registry, zoo
from teachers.registry import Options, parse, parse_options


class Dials(Options):
    noise: float = Field(0.0, ge=0, le=1)
    modes: int = Field(1, gt=0)
    kind: Literal["a", "b"] = "a"


class NoOptions(Options):
    pass


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("scripted", ("scripted", None, {})),
        ("scripted:", ("scripted", None, {})),
        ("scripted:noise=0.5,bias=0.02", ("scripted", None, {"noise": "0.5", "bias": "0.02"})),
        ("scripted,noise=0.5", ("scripted", None, {"noise": "0.5"})),
        ("policy:runs/x", ("policy", "runs/x", {})),
        ("policy:runs/lr=3/x,k=v", ("policy", "runs/lr=3/x", {"k": "v"})),
        ("remote:ws://host:8000, k = v", ("remote", "ws://host:8000", {"k": "v"})),
        ("", ("", None, {})),
    ],
)
def test_parse(name, parsed):
    assert parse(name) == parsed


@pytest.mark.parametrize("name", ["scripted:a=1,b", "scripted:a=", "scripted:a=1,a=2", "scripted:a=1,"])
def test_parse_refuses(name):
    with pytest.raises(ConfigError, match="scripted"):
        parse(name)


def test_options_are_typed():
    assert parse_options(Dials, {"noise": "0.5", "modes": "2", "kind": "b"}, "x") == Dials(noise=0.5, modes=2, kind="b")
    assert parse_options(Dials, {}, "x") == Dials()


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
        parse_options(Dials, options, "scripted")
    assert "\n" not in str(error.value)


def test_family_without_options():
    with pytest.raises(ConfigError, match="it has no options"):
        parse_options(NoOptions, {"a": "1"}, "policy")


def test_unknown_family_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown teacher 'scriptd': did you mean scripted"):
        registry.make("scriptd:noise=1", spec=None)


def test_list_teachers():
    patterns = [pattern for pattern, _ in registry.list_teachers()]
    names = [*registry.FAMILIES, *(f"zoo/{model}" for model in zoo.MODELS)]
    assert all(p.startswith(name) for p, name in zip(patterns, names, strict=True))
