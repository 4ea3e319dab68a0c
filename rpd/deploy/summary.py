"""Text summary of a deployment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from rpd.core.statistics import format_rate
from rpd.datasets.deploy_log.format import OPERATOR
from rpd.deploy.cascade import STUDENT
from rpd.deploy.outcome import Outcome


def facts(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Summary lines by label."""
    ticks, asked = sum(o.ticks for o in outcomes), sum(o.asked for o in outcomes)
    clamps: Counter[str] = sum((o.clamps for o in outcomes), Counter())
    lines = {"episodes": f"{len(outcomes)}, {ticks:,} commands, {asked:,} questions to the policy"}
    solved = [o.success for o in outcomes if o.success is not None]
    if solved:
        lines["success"] = format_rate(sum(solved), len(solved))
    reasons = Counter(o.reason for o in outcomes)
    if failures := [o.stop_failure for o in outcomes if o.stop_failure is not None]:
        lines["NOT STOPPED"] = f"{failures[0]}: use the robot's emergency stop"
    lines["ended by"] = "; ".join(f"{reason} ({n})" if n > 1 else reason for reason, n in reasons.most_common())
    if outside := [o.outside for o in outcomes if o.outside]:
        lines["outside of training"] = f"{format_outside(outside[0])}; {len(outside)} of {len(outcomes)} first observations"
    who: Counter[str] = sum((o.who for o in outcomes), Counter())
    if set(who) - {STUDENT}:
        lines["answered by"] = ", ".join(f"{name} {100 * n / who.total():.1f} %" for name, n in who.most_common())
    if taken := [o for o in outcomes if o.takeovers]:
        lines["taken over"] = _takeovers(taken, len(outcomes), who)
    overruns = sum(o.overruns for o in outcomes)
    lines["late by"] = quantiles([x for o in outcomes for x in o.lateness]) + f"; {overruns} deadlines missed"
    lines["age of the joints"] = quantiles([x for o in outcomes for x in o.ages])
    lines["measured to commanded"] = quantiles([x for o in outcomes for x in o.delays])
    lines["clamped"] = ", ".join(f"{name} {100 * n / max(ticks, 1):.1f} %" for name, n in clamps.most_common()) or "nothing"
    return lines


def _takeovers(taken: Sequence[Outcome], episodes: int, who: Mapping[str, int]) -> str:
    """Format the take-overs of the episodes in which there were any; `who`: actions by source."""
    reasons: Counter[str] = sum((o.takeovers for o in taken), Counter())
    named = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
    actions, total = who.get(OPERATOR, 0), sum(who.values())
    solved, times = sum(bool(o.success) for o in taken), sum(reasons.values())
    return (
        f"{'once' if times == 1 else f'{times} times'} ({named}) in {len(taken)} of {episodes} episodes, {solved} of them "
        f"solved; {actions:,} of {total:,} actions ({100 * actions / max(total, 1):.1f} %)"
    )


def format_outside(entries: Mapping[str, float], most: int = 6) -> str:
    """Format state entries outside of the training and their distances from its mean; `most`: number that is named."""
    named = [f"{name} by {far:+.1f}" for name, far in list(entries.items())[:most]]
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return f"{', '.join(named)}{more} standard deviations"


def quantiles(seconds: Sequence[float]) -> str:
    """Format median, 99 % quantile and maximum in milliseconds."""
    if not seconds:
        return "nothing"
    p50, p99, most = (1000 * float(np.quantile(seconds, q)) for q in (0.5, 0.99, 1.0))
    return f"{p50:.2f} ms (median), {p99:.2f} ms (99 %), {most:.2f} ms (max)"
