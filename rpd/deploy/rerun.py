"""Export of a deployment log for the Rerun viewer: https://rerun.io."""

from __future__ import annotations

from pathlib import Path

from rpd.datasets.deploy_log.reader import Record
from rpd.envs.errors import missing_package

CURVES = ("joints", "velocities", "wanted", "command", "raw", "action", "effort", "gripper", "lateness", "age", "delay")
"""Plotted quantities, by their names in the frames of ticks."""


def write(recorded: Record, path: Path) -> None:
    """Write curves, images, clamps and reasons of episode ends.

    Args:
        recorded: deployment log.
        path: output file, ``.rrd``.

    Raises:
        ConfigError: rerun-sdk is not installed.
    """
    try:
        import rerun as rr
    except ImportError:
        raise missing_package("--rerun", "rerun-sdk", "rerun") from None
    stream = rr.RecordingStream(f"rpd deploy {recorded.path.name}")
    stream.save(path)
    period, began = 1 / recorded.head["rate"], 0.0  # episodes are concatenated
    for played in recorded.played:
        for tick in played.ticks:
            stream.set_time("time", duration=began + tick["time"])
            for name in CURVES:
                if tick.get(name) is not None:
                    stream.log(name, rr.Scalars(tick[name]))
            if tick.get("clamps"):
                stream.log("safety", rr.TextLog(", ".join(tick["clamps"]), level="WARN"))
            if tick["tick"] in played.places:
                for key, value in recorded.observation(played, tick["tick"]).items():
                    if key.startswith("image."):
                        stream.log(key, rr.Image(value[:, :, -3:]))
        why = "the record ends" if played.end is None else played.end["reason"]
        stream.log("safety", rr.TextLog(f"episode {played.seed}: {why}", level="INFO"))
        began += (played.ticks[-1]["time"] if played.ticks else 0.0) + period
    stream.disconnect()
