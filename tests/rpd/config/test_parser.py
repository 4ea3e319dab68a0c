import io
import sys
from pathlib import Path
from typing import Literal

import pytest
import tyro
from pydantic import BaseModel, Field

from envs.errors import ConfigError
from rpd.arguments import option_names, parse


class Inner(BaseModel):
    """A group."""

    rate: float = Field(0.5, gt=0)
    """How fast."""
    steps_per_go: int = 3
    """How many."""


class Outer(BaseModel):
    """Do it."""

    what: tyro.conf.Positional[str]
    """What to do."""
    where: tyro.conf.Positional[str] = ""
    """Where to do it."""
    mode: Literal["slow", "fast"] = "slow"
    """How."""
    flag: bool = False
    """Whether."""
    sizes: tuple[int, ...] = (1, 2)
    """Several."""
    limit: int | None = None
    """Perhaps."""
    out: Path | None = None
    """Where."""
    inner: Inner = Field(default_factory=Inner)


def told(*args):
    with pytest.raises(ConfigError) as caught:
        parse(Outer, list(args), "do")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values():
    got = parse(Outer, ["it", "--inner.steps-per-go", "7", "--flag", "True", "--sizes", "4", "5", "--limit", "None"], "do")
    assert (got.what, got.inner.steps_per_go, got.flag, got.sizes, got.limit) == ("it", 7, True, (4, 5), None)
    assert parse(Outer, ["it", "--inner.steps_per_go", "7"], "do").inner.steps_per_go == 7


def test_defaults_can_be_replaced():
    default = Outer(what="that", inner=Inner(rate=0.25))
    assert parse(Outer, ["--flag", "True"], "do", default) == default.model_copy(update={"flag": True})


def test_names():
    assert option_names(Outer) == ["mode", "flag", "sizes", "limit", "out", "inner.rate", "inner.steps_per_go"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["it", "--inner.rat", "1"], "unknown option '--inner.rat': did you mean --inner.rate"),
        (["it", "--inner.rat=1"], "unknown option '--inner.rat': did you mean --inner.rate"),
        (["it", "--rate", "1"], "unknown option '--rate': did you mean --inner.rate"),
        (["it", "--zzzzzzz"], "unknown option '--zzzzzzz': see `do --help`"),
        (["it", "--where", "there"], "unknown option '--where': write its value without a name"),
        (["it", "there", "too"], "unexpected 'too': see `do --help`"),
        (["it", "--inner.rate", "-1"], "--inner.rate -1.0: Input should be greater than 0"),
        (["it", "--inner.rate", "x y"], "--inner.rate takes FLOAT, not 'x y'"),
        (["it", "--inner.rate"], "Missing value for argument '--inner.rate'"),
        (["it", "--limit", "x"], "--limit takes {None}|INT, not 'x'"),
        (["it", "--sizes", "x"], "--sizes takes [INT [INT ...]], not 'x'"),
        (["it", "--mode", "quick"], "invalid choice 'quick' for argument '--mode'. Expected one of ('slow', 'fast')"),
        (["it", "--flag", "maybe"], "invalid choice 'maybe' for argument '--flag'"),
        ([], "missing STR: What to do. See `do --help`."),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])  # tyro draws a box, or none
@pytest.mark.parametrize("columns", ["40", "200"])
def test_mistakes_are_told_in_one_line(args, message, encoding, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert told(*args).startswith(message)


def test_help_prints(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(Outer, ["--help"], "do", Outer(what="x", inner=Inner(rate=0.125)))
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "usage: do" in out and "Do it." in out and "--inner.steps-per-go INT" in out and "0.125" in out
