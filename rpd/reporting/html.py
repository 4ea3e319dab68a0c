"""Parts of a report page, as `Markup`: `format` and `join` escape every inserted text.

Plain text stays plain text: an f-string is a `str`, and is escaped when it is inserted into a page.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rpd.core.numbers import check_numbers
from rpd.envs.errors import ConfigError
from rpd.reporting.charts import STYLE

EMPTY = Markup("")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
"""Content security policy of a page: no scripts, no external content."""


def document(title: str, lead: Markup, body: Markup) -> Markup:
    """Return a complete HTML document."""
    css = Markup(resources.files("rpd.reporting").joinpath("style.css").read_text(encoding="utf-8") + STYLE)
    return Markup(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="{policy}">'
        "<title>{title}</title><style>{css}</style></head>"
        '<body><main><h1>{title}</h1><p class="lead">{lead}</p>{body}</main></body></html>\n'
    ).format(title=title, css=css, lead=lead, body=body, policy=POLICY)


def section(title: str, content: Markup) -> Markup:
    """Return a section with a heading, or nothing if it has no content."""
    return Markup("<section><h2>{}</h2>{}</section>").format(title, content) if content else EMPTY


def panel(content: Markup) -> Markup:
    """Return a framed part of a section."""
    return Markup('<div class="panel">{}</div>').format(content)


def card_row(cards: Iterable[tuple[str, str, str, bool]]) -> Markup:
    """Return a row of numbers: (name, value, note, whether it is the main one)."""
    card = Markup('<div class="card{}"><div class="name">{}</div><div class="value">{}</div><div class="note">{}</div></div>')
    row = EMPTY.join(card.format(" main" if main else "", name, value, note) for name, value, note, main in cards)
    return Markup('<div class="cards">{}</div>').format(row)


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Markup:
    """Return a table of text."""
    return panel(rows_table(each("<th>{}</th>", columns), (each("<td>{}</td>", row) for row in rows)))


def rows_table(head: Markup, rows: Iterable[Markup]) -> Markup:
    """Return a table of rows of cells."""
    body = each("<tr>{}</tr>", rows)
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, body)


def each(template: str, values: Iterable[str]) -> Markup:
    """Format a template with each value, and join the results."""
    return EMPTY.join(Markup(template).format(value) for value in values)


def whisker(result: dict[str, Any]) -> Markup:
    """A scale from 0 to 100 % with the interval and the rate on it."""
    low, high = result["interval"]
    return Markup(
        '<svg class="whisker" viewBox="0 0 150 14"><rect class="rail" x="5" y="6" width="140" height="2"/>'
        '<rect class="span" x="{:.1f}" y="3" width="{:.1f}" height="8" rx="3"/>'
        '<circle class="dot" cx="{:.1f}" cy="7" r="4.5"/></svg>'
    ).format(5 + 140 * low, 140 * (high - low), 5 + 140 * result["rate"])


def video(path: Path, caption: str) -> Markup:
    """Return an mp4 embedded in the page."""
    return Markup(
        '<figure><video controls autoplay loop muted playsinline src="data:video/mp4;base64,{}"></video>'
        "<figcaption>{}</figcaption></figure>"
    ).format(base64.b64encode(path.read_bytes()).decode(), caption)


def strip(folder: Path) -> Markup:
    """One square per episode, in the order of the seeds: green if solved.

    Raises:
        ConfigError: the file of the episodes is damaged; names it.
    """
    path = folder / "episodes.jsonl"
    if not path.exists():
        return EMPTY
    try:
        episodes = [check_numbers(json.loads(line), str(path)) for line in path.read_text(encoding="utf-8").splitlines()]
        squares = EMPTY.join(
            Markup('<i class="{}" title="seed {}: return {:.2f}, {} steps"></i>').format(
                "ok" if e["success_once"] else "", e["seed"], e["ret"], e["length"]
            )
            for e in episodes
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: damaged: {' '.join(str(error).split())}") from None
    return Markup('<div class="strip">{}</div>').format(squares)


def json_details(title: str, value: dict[str, Any]) -> Markup:
    """Return JSON in a collapsible element."""
    return details(title, json.dumps(value, indent=2))


def details(title: str, text: str) -> Markup:
    """Return text in a collapsible element."""
    return Markup("<details><summary>{}</summary><pre>{}</pre></details>").format(title, text)


def rate_text(result: dict[str, Any]) -> str:
    """Return k/n and the 95 % interval."""
    low, high = result["interval"]
    return f"{result['successes']}/{result['n']} ({100 * low:.0f}–{100 * high:.0f} %)"


def paired_text(paired: dict[str, Any]) -> str:
    """Return the 95 % interval of a paired difference, in points."""
    return f"({100 * paired['lo']:+.0f} to {100 * paired['hi']:+.0f})"


def count(value: float | None) -> str:
    """Format an integer with separators."""
    return "–" if value is None else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Format seconds as h:mm:ss."""
    return "–" if seconds is None else str(timedelta(seconds=round(seconds)))
