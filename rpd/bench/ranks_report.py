"""Table and remarks of `rpd bench ranks`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rpd.bench import rank_growth
from rpd.bench.rank_growth import Growth
from rpd.bench.ranks import ITERATIONS, Record, Runs
from rpd.bench.result import Benchmark, Cell, Column, spread
from rpd.bench.scaling import FREE, NETWORKS, Network, Prediction, Recording, predict
from rpd.config.schema import RunConfig

SIMULATED = (8, 64, 512)
CLOCKS = {
    "cpu": "CPU times (every rank has an idle core)",
    "wall": "wall times (cores as busy as here, network and growing work not)",
}
PARTS: dict[str, Callable[[Record], float]] = {
    "collecting, ms": lambda r: 1000 * r["collecting"],
    "update without waiting, ms": lambda r: 1000 * (r["wall"] - r["collecting"] - _collectives(r)),
    "all-reduces of gradients, ms": lambda r: 1000 * r["gradient_seconds"],
    "other collectives, ms": lambda r: 1000 * (_collectives(r) - r["gradient_seconds"]),
    "iteration, ms": lambda r: 1000 * r["wall"],
    "iteration, CPU ms": lambda r: 1000 * r["cpu"],
    "kB sent by a rank for gradients": lambda r: r["gradient_bytes"] / 1000,
    "all-reduces of gradients": lambda r: r["gradient_sums"],
    "all collectives": lambda r: sum(2 if kind == "gather" else 1 for kind, _, _ in r["collectives"]),
}
"""Values of an iteration of one rank, by name."""


def tabulate(config: RunConfig, found: Sequence[Runs], load: str) -> Benchmark:
    """Return the measured table, with the simulation as remarks.

    Args:
        config: configuration of one rank.
        found: measurements; the simulation takes the times of the last one.
        load: remark about the machine.
    """
    last = found[-1]
    columns = (Column("measured, per iteration"), *(Column(_ranks(runs.ranks), ",.1f") for runs in found))
    ratio = (Column("ratio min", ".2f"), Column("median", ".2f"), Column("max", ".2f"))
    table = Benchmark(_title(config), (*columns, *ratio))
    for name, clock in (("steps/s", "wall"), ("steps per CPU second of the busiest rank", "cpu")):
        rates = [runs.rates(clock) for runs in found]
        ratios = [b / a for a, b in zip(rates[0], rates[-1], strict=True)]
        table.rows.append((name, *map(statistics.median, rates), *spread(ratios)))
    for name, value in PARTS.items():
        medians = [statistics.median(map(value, runs.records)) for runs in found]
        relative: Cell = medians[-1] / medians[0] if medians[0] else None
        table.rows.append((name, *medians, None, relative, None))
    table.notes += [load, *_remarks(found)]
    growth = _growth(config, last)
    table.notes += _simulated(last, growth)
    table.details = _details(found, growth)
    return table


def _title(config: RunConfig) -> str:
    ppo = config.ppo
    return (
        f"training of {config.task}, {config.env.num_envs} environments per rank (weak scaling), {ppo.num_steps} steps, "
        f"{ppo.update_epochs} epochs of {ppo.num_minibatches} minibatches"
    )


def _remarks(found: Sequence[Runs]) -> list[str]:
    pinned = [str(runs.ranks) for runs in found if runs.pinned]
    cores = f"each rank is pinned to a core of its own with {' and '.join(pinned)} ranks" if pinned else "no rank is pinned"
    turns = f"medians of {len(found[0].rounds)} rounds by turns, {ITERATIONS} iterations each"
    turns += f"; ratios are those of {_ranks(found[-1].ranks)} to {_ranks(found[0].ranks)}, of rates by round"
    gradients = f"{found[-1].parameters:,} parameters, {4 * found[-1].parameters / 1000:,.0f} kB per all-reduce of gradients"
    return [
        f"measured: {turns}; {cores}; gloo",
        f"measured: {gradients}; one per minibatch, and one per iteration to compare the gradients of both losses",
        "measured: times of collectives include waiting for the slower rank, and for the scheduler: gloo sleeps until a "
        "message arrives, and on a busy core a process waits for its turn",
    ]


def _growth(config: RunConfig, runs: Runs) -> dict[int, Growth]:
    gathered = max((c.size for c in runs.recording("cpu").collectives if c.kind == "gather"), default=0)
    sizes = sorted({1, runs.ranks, *SIMULATED})
    return {n: rank_growth.measure(n, config.env.num_envs, runs.action_dims, config.ppo, gathered) for n in sizes}


def _simulated(runs: Runs, growth: dict[int, Growth]) -> list[str]:
    """Remarks with the work that grows and the efficiencies."""
    work = ", ".join(
        f"{n}: {1000 * g.total:,.1f} ms ({1000 * g.noise:,.1f} noise, {1000 * g.permutations:,.1f} permutations, "
        f"{1000 * g.episodes:,.1f} episodes)" for n, g in growth.items()
    )  # fmt: skip
    notes = [
        f"measured: CPU time of each rank that grows with the number of ranks, per iteration, at {work}",
        "simulated: efficiency = throughput per rank relative to one rank alone, from the times recorded with "
        f"{_ranks(runs.ranks)} and the work above; the slowest rank counts between any two collectives; one rank per network "
        "link; no evaluations and no checkpoints",
        f"simulated: an iteration has {1000 * runs.recording('cpu').software:,.0f} ms of CPU time inside the collectives "
        "(copies, sockets), as measured here, whatever the network",
    ]
    for clock, meaning in CLOCKS.items():
        recording = runs.recording(clock)
        for network in (FREE, *NETWORKS):
            found = (f"{p.efficiency:.0%} at {n}" for n, p in predictions(recording, runs.ranks, growth, network).items())
            notes.append(f"simulated, {meaning}, {_assumed(network)}: {', '.join(found)} ranks")
    return notes


def predictions(recording: Recording, recorded: int, growth: dict[int, Growth], network: Network) -> dict[int, Prediction]:
    """Return the simulated iterations by number of ranks.

    Args:
        recording: compute times.
        recorded: number of ranks of the recording, whose share of the growing work is in its times.
        growth: growing work by number of ranks: 1, `recorded`, and those of the result.
        network: the network.
    """
    own = {n: found.total - growth[recorded].total for n, found in growth.items()}
    return {n: predict(recording, n, network, own[n], own[1]) for n in growth if n > 1}


def _assumed(network: Network) -> str:
    if network is FREE:
        return network.name
    return f"{network.name} ({1e6 * network.latency:g} µs, {network.bandwidth / 1e9:g} GB/s assumed)"


def _details(found: Sequence[Runs], growth: dict[int, Growth]) -> dict[str, Any]:
    """Values for programs: iterations of all ranks, times of the parts, growing work, and predictions."""
    last = found[-1]
    recordings = {clock: last.recording(clock) for clock in CLOCKS}
    return {
        "iterations": {runs.ranks: [[_values(r) for r in rank] for turn in runs.rounds for rank in turn] for runs in found},
        "parts": {
            clock: {"mean": r.seconds.mean(0).tolist(), "max": r.seconds.max(0).tolist(), "samples": len(r.seconds)}
            for clock, r in recordings.items()
        },
        "collectives": [asdict(collective) for collective in recordings["cpu"].collectives],
        "growth": [asdict(g) for g in growth.values()],
        "networks": [asdict(network) for network in NETWORKS],
        "simulated": [
            {"times": clock, "network": network.name, "ranks": n, **asdict(p), "efficiency": p.efficiency}
            for clock, recording in recordings.items()
            for network in (FREE, *NETWORKS)
            for n, p in predictions(recording, last.ranks, growth, network).items()
        ],
    }  # fmt: skip


def _values(record: Record) -> dict[str, float]:
    return {name: value(record) for name, value in PARTS.items()}


def _collectives(record: Record) -> float:
    return sum(seconds for _, _, seconds in record["collectives"])


def _ranks(count: int) -> str:
    return f"{count} rank{'s' * (count > 1)}"
