"""What a deployment was like, in one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from rpd.deploy.cascade import STUDENT
from rpd.deploy.loop import Outcome
from rpd.stats import format_rate


def show(outcomes: Sequence[Outcome]) -> None:
    """Print it."""
    table = Table(title="deployment", title_justify="left", header_style="bold", show_header=False)
    for name, value in facts(outcomes).items():
        table.add_row(name, value)
    Console().print(table)


def facts(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """What is worth knowing, in words."""
    ticks, asked = sum(o.ticks for o in outcomes), sum(o.asked for o in outcomes)
    clamps: Counter[str] = sum((o.clamps for o in outcomes), Counter())
    said = {"episodes": f"{len(outcomes)}, {ticks:,} commands, {asked:,} questions to the policy"}
    solved = [o.success for o in outcomes if o.success is not None]
    if solved:
        said["success"] = format_rate(sum(solved), len(solved))
    reasons = Counter(o.reason for o in outcomes)
    said["ended by"] = "; ".join(f"{reason} ({n})" if n > 1 else reason for reason, n in reasons.most_common())
    who: Counter[str] = sum((o.who for o in outcomes), Counter())
    if set(who) - {STUDENT}:
        said["answered by"] = ", ".join(f"{name} {100 * n / who.total():.1f} %" for name, n in who.most_common())
    overruns = sum(o.overruns for o in outcomes)
    said["late by"] = quantiles([x for o in outcomes for x in o.lateness]) + f"; {overruns} deadlines missed"
    said["age of the joints"] = quantiles([x for o in outcomes for x in o.ages])
    said["measured to commanded"] = quantiles([x for o in outcomes for x in o.delays])
    said["clamped"] = ", ".join(f"{name} {100 * n / max(ticks, 1):.1f} %" for name, n in clamps.most_common()) or "nothing"
    return said


def quantiles(seconds: Sequence[float]) -> str:
    """Median, 99 % and maximum in milliseconds."""
    if not seconds:
        return "nothing"
    p50, p99, most = (1000 * float(np.quantile(seconds, q)) for q in (0.5, 0.99, 1.0))
    return f"{p50:.2f} ms (median), {p99:.2f} ms (99 %), {most:.2f} ms (max)"
