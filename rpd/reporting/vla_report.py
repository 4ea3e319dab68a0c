"""`rpd teacher train`: a run from its folder's point of view."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from envs.errors import ConfigError
from rpd import lifecycle
from rpd.atomic import write_text
from rpd.charts import Chart, Series, figure
from rpd.cloning.config import CloneConfig, CloneOptions
from rpd.cloning.trainer import MODEL, Cloner
from rpd.page import card_row, document, json_details, rate_text, section
from rpd.runs import column, read_json
from rpd.track import read_metrics

COMMAND = "rpd teacher train"


def main(options: CloneOptions) -> int:
    """Start or continue; returns the exit code."""
    if options.resume is not None:
        return _resume(options.resume)
    if not options.data:
        raise ConfigError("no demonstrations: name a folder that `rpd collect` wrote, e.g. rpd teacher train demos/x")
    run_dir = options.runs_dir / (
        options.name or f"{options.family}-{options.init.split('/')[-1]}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    lifecycle.claim(run_dir, COMMAND)
    config = CloneConfig(**options.model_dump(include=set(CloneConfig.model_fields)))
    return _train(Cloner(config, run_dir))


def _resume(run_dir: Path) -> int:
    config = lifecycle.configuration(run_dir, CloneConfig, COMMAND)
    if (run_dir / "result.json").exists():
        print(f"{run_dir} is complete: {config.total_steps:,} steps")
        return 0
    saved = lifecycle.newest(run_dir)
    if saved is not None:
        print(f"resuming {run_dir} at {saved.step:,} steps", flush=True)
    return _train(Cloner(config, run_dir, saved))


def _train(cloner: Cloner) -> int:
    if not lifecycle.see_through(cloner, COMMAND):
        return 130
    result = read_json(cloner.run_dir / "result.json")
    table = Table(header_style="bold")
    for name in ("task", "success (95 %)", "length"):
        table.add_column(name, no_wrap=True)
    for played in result["played"]:
        table.add_row(played["task"], rate_text(played), f"{played['mean_length']:.1f}")
    console = Console()
    if result["played"]:
        console.print(table)
    folder = cloner.run_dir / MODEL
    report = write_report(cloner.run_dir)
    console.print(
        f"model: {folder}\nas a teacher: {cloner.config.family}:{folder}\nreport: {report}", highlight=False, soft_wrap=True
    )
    return 0


def write_report(run_dir: Path) -> Path:
    """Write report.html of one run: what the model can do, and how it learnt."""
    result, metrics = read_json(run_dir / "result.json"), read_metrics(run_dir)
    cards = [(p["task"].split("/")[-1], f"{p['rate']:.0%}", rate_text(p), False) for p in result["played"]]
    size = (f"{result['parameters'] / 1e6:.1f} M parameters", f"{result['episodes']:,} episodes", f"{result['rows']:,} steps")
    charts = []
    for title, names in CURVES:
        lines = [Series(label, *column(metrics, name), color=i) for i, (name, label) in enumerate(names)]
        charts.append(Chart(title, [line for line in lines if len(line.x)], x_label="gradient steps"))
    body = card_row(cards) + section("Learning curves", figure([c for c in charts if not c.empty], cols=2))
    body += section("Details", json_details("Result", result) + json_details("Machine", read_json(run_dir / "env.json")))
    write_text(run_dir / "report.html", document(f"Behaviour cloning · {run_dir.name}", " · ".join(size), body))
    return run_dir / "report.html"


CURVES = (
    ("Loss of actions", (("clone/action", "learnt from"), ("check/loss", "held out"))),
    ("Held out: mean error of continuous dimensions", (("check/error", "of the action range [-1, 1]"),)),
    ("Held out: wrong gripper commands", (("check/gripper", "fraction"),)),
    ("Scene from visual tokens", (("clone/scene", "weighted squared error"),)),
)
