"""The HTML report of a VLA fine-tuning run."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from rpd.core.files import write_text
from rpd.reporting.charts import Chart, Series, figure
from rpd.reporting.curves import column
from rpd.reporting.html import card_row, document, json_details, rate_text, section
from rpd.runs.reader import read_json
from rpd.runs.tracker import read_metrics


def write_report(run_dir: Path) -> Path:
    """Write report.html of one run: success of the model, and training curves."""
    result, metrics = read_json(run_dir / "result.json"), read_metrics(run_dir)
    cards = [(p["task"].split("/")[-1], f"{p['rate']:.0%}", rate_text(p), False) for p in result["played"]]
    size = (f"{result['parameters'] / 1e6:.1f} M parameters", f"{result['episodes']:,} episodes", f"{result['rows']:,} steps")
    charts = []
    for title, names in CURVES:
        lines = [Series(label, *column(metrics, name), color=i) for i, (name, label) in enumerate(names)]
        charts.append(Chart(title, [line for line in lines if len(line.x)], x_label="gradient steps"))
    body = card_row(cards) + section("Learning curves", figure([c for c in charts if not c.empty], cols=2))
    body += section("Details", json_details("Result", result) + json_details("Machine", read_json(run_dir / "env.json")))
    write_text(run_dir / "report.html", document(f"Behavior cloning · {run_dir.name}", Markup(" · ").join(size), body))
    return run_dir / "report.html"


CURVES = (
    ("Loss of actions", (("clone/action", "learnt from"), ("check/loss", "held out"))),
    ("Held out: mean error of continuous dimensions", (("check/error", "of the action range [-1, 1]"),)),
    ("Held out: wrong gripper commands", (("check/gripper", "fraction"),)),
    ("ManipulationState from visual tokens", (("clone/scene", "weighted squared error"),)),
)
