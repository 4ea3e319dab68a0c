"""Pieces of a report page, as HTML strings. Text is escaped here."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from datetime import timedelta
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from rpd.charts import STYLE


def document(title: str, lead: str, body: str) -> str:
    """Return a complete HTML document; `lead` and `body` are HTML."""
    css = resources.files("rpd").joinpath("report.css").read_text(encoding="utf-8") + STYLE
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css}</style></head>"
        f'<body><main><h1>{escape(title)}</h1><p class="lead">{lead}</p>{body}</main></body></html>\n'
    )


def section(title: str, content: str) -> str:
    """Return a headed section, or nothing where there is no content (HTML)."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def card_row(cards: Iterable[tuple[str, str, str, bool]]) -> str:
    """Return a row of numbers: (name, value, note, whether it is the headline)."""
    row = "".join(
        f'<div class="card{" main" if main else ""}"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)}</div><div class="note">{escape(note)}</div></div>'
        for name, value, note, main in cards
    )
    return f'<div class="cards">{row}</div>'


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of text (HTML)."""
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="panel"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def whisker(result: dict[str, Any]) -> str:
    """A rail from 0 to 100 % with the interval and the rate on it."""
    low, high = result["interval"]
    return (
        '<svg class="whisker" viewBox="0 0 150 14"><rect class="rail" x="5" y="6" width="140" height="2"/>'
        f'<rect class="span" x="{5 + 140 * low:.1f}" y="3" width="{140 * (high - low):.1f}" height="8" rx="3"/>'
        f'<circle class="dot" cx="{5 + 140 * result["rate"]:.1f}" cy="7" r="4.5"/></svg>'
    )


def video(path: Path, caption: str) -> str:
    """Return an mp4 that travels inside the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><video controls autoplay loop muted playsinline src="data:video/mp4;base64,{data}"></video>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def strip(folder: Path) -> str:
    """One square per episode, in the order of the seeds: green where it was solved."""
    if not (folder / "episodes.jsonl").exists():
        return ""
    episodes = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    squares = "".join(
        f'<i class="{"ok" if e["success_once"] else ""}" '
        f'title="seed {e["seed"]}: return {e["ret"]:.2f}, {e["length"]} steps"></i>'
        for e in episodes
    )
    return f'<div class="strip">{squares}</div>'


def json_details(title: str, value: dict[str, Any]) -> str:
    """Return JSON that unfolds on a click."""
    return details(title, json.dumps(value, indent=2))


def details(title: str, text: str) -> str:
    """Return text that unfolds on a click."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def rate_text(result: dict[str, Any]) -> str:
    """Return k/n and the 95 % interval."""
    low, high = result["interval"]
    return f"{result['successes']}/{result['n']} ({100 * low:.0f}–{100 * high:.0f} %)"


def paired_text(paired: dict[str, Any]) -> str:
    """Return the 95 % interval of a paired difference, in points."""
    return f"({100 * paired['lo']:+.0f} to {100 * paired['hi']:+.0f})"


def count(value: float | None) -> str:
    """Return a whole number with separators."""
    return "–" if value is None else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Return seconds as h:mm:ss."""
    return "–" if seconds is None else str(timedelta(seconds=round(seconds)))
