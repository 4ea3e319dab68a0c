"""Render a page from a Jinja template: every inserted text is escaped, and only the report's own scripts may run."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rpd.core.numbers import check_numbers
from rpd.envs.errors import ConfigError
from rpd.reporting.charts import legend
from rpd.reporting.interactive import plotly_figure
from rpd.reporting.text import count, duration, paired_text, rate_text

STYLE, SCRIPT = "style.css", "report.js"


class Card(NamedTuple):
    """A number at the top of a page."""

    name: str
    value: str
    note: str = ""
    main: bool = False
    """Whether it is highlighted."""


class Details(NamedTuple):
    """A text in a collapsible element."""

    title: str
    text: str


@dataclass(frozen=True)
class Video:
    """An mp4 that is embedded in the page."""

    path: Path
    caption: str

    @property
    def base64(self) -> str:
        """The file's bytes."""
        return base64.b64encode(self.path.read_bytes()).decode()


def json_details(title: str, value: dict[str, Any]) -> Details:
    """Return JSON for a collapsible element."""
    return Details(title, json.dumps(value, indent=2))


def render(template: str, interactive: bool = True, **values: Any) -> str:
    """Return a complete HTML document that loads nothing from elsewhere.

    Args:
        template: file in ``rpd/reporting/templates``.
        interactive: whether the page has charts; without them it has no scripts.
        values: variables of the template; strings are escaped.
    """
    scripts = [_plotly(), _resource(SCRIPT)] if interactive else []
    sources = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    security = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; script-src {sources}"
    page = _environment().get_template(template)
    # the style sheet and the scripts are files of rpd and of Plotly
    return page.render(
        security=security, style=Markup(_resource(STYLE)), scripts=[Markup(script) for script in scripts], **values
    )


def episodes(folder: Path) -> list[dict[str, Any]]:
    """Return the episodes of an evaluation in the order of the seeds; none without the file.

    Raises:
        ConfigError: the file of the episodes is damaged; names it.
    """
    path = folder / "episodes.jsonl"
    if not path.exists():
        return []
    try:
        found = [check_numbers(json.loads(line), str(path)) for line in path.read_text(encoding="utf-8").splitlines()]
        keys = ("success_once", "seed", "ret", "length")
        return [{key: float(e[key]) if key == "ret" else e[key] for key in keys} for e in found]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: damaged: {' '.join(str(error).split())}") from None


@functools.cache
def _environment() -> Environment:
    loader = PackageLoader("rpd.reporting")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"rate": rate_text, "paired": paired_text, "count": count, "duration": duration}
    made.globals |= {"figure_of": plotly_figure, "legend_of": legend}
    return made


def _resource(name: str) -> str:
    return resources.files("rpd.reporting").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
