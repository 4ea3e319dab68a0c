"""Nothing of a table is cut, whatever the width of the terminal, and none is printed but through `show`."""

import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from rpd.reporting.tables import compact, show, table

ROOT = Path(__file__).parents[3]
ROWS = [
    ("tabletop/PickCube", "panda_wristcam xarm6_robotiq so100", "1,234,567", "100/100 (96–100 %)"),
    ("maniskill/PegInsertionSide-v1", "[/odd] [red]name[/red]", "12", "runs/" + "x" * 60),
]


def printed(shown, width):
    console = Console(width=width)
    with console.capture() as capture:
        show(shown, console)
    return capture.get()


def filled(shown):
    for row in ROWS:
        shown.add_row(*row)
    return shown


@pytest.mark.parametrize("width", [20, 40, 80, 120])
@pytest.mark.parametrize("kind", ["ours", "compact", "rich"])
def test_no_truncation(kind, width):
    names = ("task", "robots", "steps", "success (95 %)")
    shown = table("A title", *names, whole=("task",), numbers=("steps",))
    if kind != "ours":
        shown = compact() if kind == "compact" else Table(title="A title")
        for name in names:
            shown.add_column(name, no_wrap=name == "task")
    text = printed(filled(shown), width)
    assert "…" not in text
    letters = re.sub(r"[\s│┃]", "", text)
    lines = text.splitlines()
    assert all(any(row[0] in line for line in lines) for row in ROWS)  # what may not wrap does not
    assert kind != "ours" or any("1,234,567" in line for line in lines)
    assert "[/odd][red]name[/red]" in letters or any("[/odd]" in line for line in lines)  # a name, and no markup
    assert letters.count("x") >= 60
    if width >= 80:
        assert max(map(len, lines)) <= width
    if width > 100:
        assert any("panda_wristcam" in line for line in lines)  # where there is room, no word is broken


def test_every_table_is_printed_through_show():
    printing = re.compile(r"\.print\((?!f?[\"'])[\w.]*(table|Table|facts|actions|parts|shown|listed)\w*[(),]")
    found = [str(p) for p in (ROOT / "rpd").rglob("*.py") if p.name != "tables.py" and printing.search(p.read_text())]
    assert found == []
