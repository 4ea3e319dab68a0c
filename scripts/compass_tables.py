"""Tables of the results of scripts/compass.py, from the JSON of its reports (results/compass/<domain>.json)."""

from __future__ import annotations

from typing import Any

from markdown_table import table

from rpd.reporting.text import rate_text

ORDER = ("base", "from nothing", "fine-tuned base", "specialist", "generalist")
HEADINGS = {"from nothing": "from scratch"}
NAMES = {
    "generalist": "on-policy rounds, descriptor",
    "one-hot": "on-policy rounds, one-hot",
    "off-policy": "specialists' states only, descriptor",
}


def tables(numbers: dict[str, Any]) -> str:
    """All tables of a domain, as Markdown."""
    parts = [robots(numbers)]
    if any(name in numbers["generalist_less_specialist"] for name in ("one-hot", "off-policy")):
        parts.append(distillations(numbers))
    if numbers["zero_shot"]:
        parts.append(held_out(numbers))
    return "\n\n".join(parts)


def robots(numbers: dict[str, Any]) -> str:
    """A row per task and robot: successes of each policy, then means and travel times."""
    who = [name for name in ORDER if name in numbers["means"]]
    rows = [
        [cell["task"].rsplit("/", 1)[-1], f"`{cell['robot']}`", *(_solved(cell.get(name)) for name in who)]
        for cell in numbers["cells"]
    ]
    base = numbers["means"]["base"]["rate"]
    means = []
    for name in who:
        mean = numbers["means"][name]
        low, high = mean["interval"]
        times = f", {mean['rate'] / base:.2f} × the base" if name != "base" else ""
        means.append(f"**{100 * mean['rate']:.1f} %** ({100 * low:.1f}–{100 * high:.1f}){times}")
    times = [f"{numbers['means'][name]['travel_time']:.1f} s" for name in who]
    headings = [HEADINGS.get(name, name) for name in who]
    return table(["task", "robot", *headings], [*rows, ["all", "", *means], ["time of solved episodes", "", *times]])


def distillations(numbers: dict[str, Any]) -> str:
    """A row per distillation method: success on all robots, and the difference from the distilled specialists."""
    rows = []
    for name, title in NAMES.items():
        mean, paired = numbers["means"][name], numbers["generalist_less_specialist"][name]
        difference = f"{100 * paired['diff']:+.1f} points ({100 * paired['lo']:+.1f} to {100 * paired['hi']:+.1f})"
        rows.append([title, _solved(mean), difference, f"{numbers['bytes_per_frame'][name]:.0f}"])
    return table(["generalist", "success", "generalist − specialists, paired by episode", "bytes per stored frame"], rows)


def held_out(numbers: dict[str, Any]) -> str:
    """A row per task and held-out robot."""
    rows = []
    for cell in numbers["cells"]:
        by_descriptor, by_one_hot = (cell.get(f"without-{cell['robot']}{kind}") for kind in ("", "-one-hot"))
        if by_descriptor:
            robot = [cell["task"].rsplit("/", 1)[-1], f"`{cell['robot']}`"]
            results = (cell.get("base"), by_descriptor, by_one_hot, cell.get("specialist"))
            rows.append([*robot, *(rate_text(result) if result else "–" for result in results)])
    return table(["task", "held-out robot", "base", "descriptor", "one-hot", "its own specialist"], rows)


def _solved(result: dict[str, Any] | None) -> str:
    return f"{result['successes']}/{result['n']}" if result else "–"
