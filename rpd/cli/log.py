"""`rpd log`: what a deployment was like, and what a policy would have done in it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from rpd.cli.deploy import asked_of, show
from rpd.cli.options.log import LogOptions
from rpd.datasets.deploy_log.format import OPERATOR
from rpd.datasets.deploy_log.reader import Played, Record
from rpd.deploy.outcome import Outcome
from rpd.deploy.policy_process import load
from rpd.envs.control.arm import Array
from rpd.envs.errors import RunFault
from rpd.export.actors import invalid_entries
from rpd.reporting import tables

SAME = 1e-5
"""Actions that differ by no more are the same."""


def main(options: LogOptions) -> int:
    """Show, and score; returns the exit code."""
    recorded = Record(options.record)
    print(f"{recorded.head['policy']} on {recorded.head['robot']}, {recorded.head['rate']:g} commands per second")
    show([outcome(played) for played in recorded.played], asked_of(recorded))
    if options.policy is not None:
        torch.set_num_threads(1)
        _score(recorded, options.policy)
    if options.rerun is not None:
        from rpd.deploy.rerun import write

        write(recorded, options.rerun)
        print(f"written: {options.rerun}; rerun {options.rerun}")
    return 0


def outcome(played: Played) -> Outcome:
    """Outcome of an episode, from its recording."""
    ticks, end = played.ticks, played.end
    reason = "the record ends" if end is None else end["reason"]
    clamps = Counter(name for tick in ticks for name in tick.get("clamps", ()))
    who = Counter(tick["who"] for tick in ticks if "who" in tick)
    return Outcome(
        reason=reason,
        fault=end is None or end["fault"],
        success=ticks[-1].get("success") if ticks else None,
        ticks=len(ticks),
        asked=len(played.places) - who[OPERATOR],
        answered=len(played.answers) - who[OPERATOR],
        lateness=[tick["lateness"] for tick in ticks],
        ages=[tick["age"] for tick in ticks if "age" in tick],
        delays=[tick["delay"] for tick in ticks if "delay" in tick],
        overruns=sum(tick["missed"] for tick in ticks),
        who=who,
        takeovers=Counter(tick["takeover"] for tick in ticks if "takeover" in tick),
        clamps=clamps,
        outside=played.outside,
    )


def differences(recorded: Record, policy: str) -> tuple[Array, NDArray[np.bool_]]:
    """Differences between a policy's actions and the recorded ones: [rows, A] in action units, and [rows] those of an operator.

    As in the deployment, the policy is reset when it gets control back.

    Raises:
        ConfigError: no such policy, or it does not fit what was recorded.
        RunFault: it answers with NaN, Inf, or a magnitude that is no action.
    """
    loaded = load(policy, recorded.spec)
    rows, operated = [], []
    for played in recorded.played:
        before = True
        for tick in played.answered:
            operated.append(played.answers[tick].get("who") == OPERATOR)
            if before and not operated[-1]:
                loaded.reset()
            before = operated[-1]
            action = loaded.act(recorded.observation(played, tick), played.instruction)
            if bad := invalid_entries(action, loaded.spec.action.names):
                raise RunFault(f"policy {policy}: its action at tick {tick} is not finite: {bad}")
            rows.append(action - played.answers[tick]["raw"])
    return np.array(rows), np.array(operated, dtype=bool)


def _score(recorded: Record, policy: str) -> None:
    rows, operated = differences(recorded, policy)
    if operated.all():
        print("the operator was in control of every action: there is nothing of the policy to compare")
        return
    gap = np.abs(rows[~operated])
    table = Table(title=f"{policy}: differences from what was done", title_justify="left", header_style="bold")
    for column in ("action", "mean", "99 %", "max"):
        table.add_column(column)
    for name, column in zip(recorded.spec.action.names, gap.T, strict=True):
        table.add_row(name, *(f"{x:.2g}" for x in (column.mean(), np.quantile(column, 0.99), column.max())))
    tables.show(table)
    if operated.any():
        far = ", ".join(f"{x:.2g}" for x in np.abs(rows[operated]).mean(axis=0))
        print(f"from the {int(operated.sum()):,} actions of the operator, mean: {far}")
    print(f"{int((gap.max(axis=1) <= SAME).sum()):,} of {len(gap):,} actions are the same, to {SAME:g}")
