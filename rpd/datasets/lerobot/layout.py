"""Paths and feature names of a LeRobotDataset v3."""

from __future__ import annotations

VERSION = "v3.0"
INFO, STATS, TASKS, RPD = "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/rpd.json"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
EPISODES, DATA, VIDEO = f"meta/episodes/{FILE}.parquet", f"data/{FILE}.parquet", f"videos/{{video_key}}/{FILE}.mp4"
CHUNK_FILES, DATA_MB, VIDEO_MB = 1000, 100, 200
"""Files per chunk, and file sizes in MB at which the next file begins: LeRobot's defaults."""

FEATURES = {
    "state": "observation.state",
    "privileged": "observation.environment_state",
    "label": "action",
    "action": "executed_action",
    "reward": "next.reward",
    "success": "next.success",
    "truncated": "next.truncated",
    "intervention": "is_intervention",
}
"""LeRobot's names of keys. Policies imitate its ``action``, so it holds the label; executed actions get a name that no policy
reads as an action (such names begin with ``action``). ``next.done`` combines terminated and truncated."""
DONE = "next.done"
INDICES = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}
"""Features that every dataset has."""


def feature_name(key: str) -> str:
    """LeRobot's name of a key: ``image.front`` -> ``observation.images.front``."""
    if key.startswith("image."):
        return f"observation.images.{key.removeprefix('image.')}"
    return FEATURES.get(key, f"observation.{key}")


def key_name(feature: str, image: bool) -> str:
    """Key of a LeRobot feature, the inverse of `feature_name`: ``observation.images.front`` -> ``image.front``."""
    if image:
        return f"image.{feature.removeprefix('observation.').removeprefix('images.')}"
    known = {name: key for key, name in FEATURES.items()}
    return known.get(feature, feature.removeprefix("observation."))
