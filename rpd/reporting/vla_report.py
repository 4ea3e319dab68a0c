"""The HTML report of a VLA fine-tuning run."""

from __future__ import annotations

from pathlib import Path

from rpd.core.files import write_text
from rpd.reporting.charts import Chart, Series
from rpd.reporting.curves import column
from rpd.reporting.page import Card, json_details, render
from rpd.reporting.text import rate_text
from rpd.runs.reader import read_json
from rpd.runs.tracker import read_metrics


def write_report(run_dir: Path) -> Path:
    """Write report.html of one run: success of the model, and training curves."""
    result, metrics = read_json(run_dir / "result.json"), read_metrics(run_dir)
    charts = []
    for title, names in CURVES:
        lines = [Series(label, *column(metrics, name), index=i) for i, (name, label) in enumerate(names)]
        charts.append(Chart(title, lines, x_label="gradient steps"))
    page = render(
        "finetuning.html",
        title=f"Behavior cloning · {run_dir.name}",
        size=(
            f"{result['parameters'] / 1e6:.1f} M parameters",
            f"{result['episodes']:,} episodes",
            f"{result['rows']:,} steps",
        ),
        cards=[Card(p["task"].split("/")[-1], f"{p['rate']:.0%}", rate_text(p)) for p in result["played"]],
        charts=[chart for chart in charts if chart.drawn],
        details=[json_details("Result", result), json_details("Machine", read_json(run_dir / "env.json"))],
        mark="",
    )
    write_text(run_dir / "report.html", page)
    return run_dir / "report.html"


CURVES = (
    ("Loss of actions", (("clone/action", "learnt from"), ("check/loss", "held out"))),
    ("Held out: mean error of continuous dimensions", (("check/error", "of the action range [-1, 1]"),)),
    ("Held out: wrong gripper commands", (("check/gripper", "fraction"),)),
    ("ManipulationState from visual tokens", (("clone/scene", "weighted squared error"),)),
)
