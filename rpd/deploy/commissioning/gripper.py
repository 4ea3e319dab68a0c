"""Step: the gripper opens and closes."""

from __future__ import annotations

from rpd.deploy.commissioning.console import StepFailed, confirm_motion, confirmed
from rpd.deploy.commissioning.walk import Walk

STROKE = 4.0
"""Time for the gripper to open or close, s."""
ENDS = 0.15
"""Largest distance of a measured opening from fully open or closed."""


def check_gripper(walk: Walk) -> str:
    """Close and open the gripper."""
    found, took = dict[str, float](), dict[str, float]()
    confirm_motion(walk.console, "The gripper closes and opens, the arm stays: take everything out of it.")
    with walk.station.moving() as (_, motion):
        for name, opening in (("closed", 0.0), ("open", 1.0)):
            trace = motion.to(motion.posture, gripper=opening, settle=STROKE)
            found[name] = trace.gripper[-1]
            there = [abs(value - trace.gripper[-1]) < ENDS / 3 for value in trace.gripper]
            took[name] = trace.times[there.index(True)] - trace.times[0]
    walk.console.show(f"measured: {100 * found['closed']:.0f} % when closed, {100 * found['open']:.0f} % when open")
    if not confirmed(walk.console, "Did it close, and then open?"):
        raise StepFailed("the gripper does not follow: check its cable, its power and its software on the controller")
    for name, opening in (("closed", 0.0), ("open", 1.0)):
        if abs(found[name] - opening) > ENDS:
            raise StepFailed(f"when {name}, its driver measures an opening of {found[name]:.2f}, not {opening:g}: calibrate it")
    return f"closes in {took['closed']:.1f} s, opens in {took['open']:.1f} s"
