import ast
import io
import itertools
import sys
from pathlib import Path
from typing import Literal

import pytest
import tyro
from pydantic import BaseModel, Field

from rpd.config.parser import option_names, parse
from rpd.envs.errors import ConfigError

ROOT = Path(__file__).parents[3]


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
def test_invalid_options_give_one_line(args, message, encoding, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert told(*args).startswith(message)


def test_help_prints(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(Outer, ["--help"], "do", Outer(what="x", inner=Inner(rate=0.125)))
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "usage: do" in out and "Do it." in out and "--inner.steps-per-go INT" in out and "0.125" in out


@pytest.mark.slow
def test_help_is_not_broken_in_the_middle_of_a_sentence():
    """tyro joins the lines of a field's docstring unless one begins with something other than a letter."""
    broken = [
        f"{path.relative_to(ROOT)}:{text.lineno}: {line.strip()}"
        for package in ("rpd", "envs", "students")
        for path in (ROOT / package).rglob("*.py")
        for model in ast.walk(ast.parse(path.read_text()))
        if isinstance(model, ast.ClassDef)
        for field, text in itertools.pairwise(model.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        for line in str(text.value.value).splitlines()[1:]
        if line.strip() and not line.strip()[0].isalpha()
    ]
    assert broken == []
