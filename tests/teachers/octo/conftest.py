"""A tiny checkpoint that the original code saved, and what it made of recorded inputs and noise.

`golden/` was recorded with octo-models/octo at 241fb35, jax 0.4.20 and flax 0.7.5, on a CPU.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

MISSING = any(importlib.util.find_spec(name) is None for name in ("transformers", "msgpack"))
collect_ignore_glob = ["test_*.py"] if MISSING else []

GOLDEN = Path(__file__).parent / "golden"


class Case:
    """One recorded case: arrays by name as tensors."""

    def __init__(self, path):
        self.name, self.arrays = path.stem, dict(np.load(path))

    def __getitem__(self, name):
        return torch.from_numpy(self.arrays[name])

    def __contains__(self, name):
        return name in self.arrays

    def under(self, prefix):
        return {k.removeprefix(prefix): self[k] for k in self.arrays if k.startswith(prefix)}

    def inputs(self, model):
        from rpd.teachers.octo.model import Observation, Task

        observed, task = self.under("in/observation/"), self.under("in/task/")
        images = {k: v for k, v in observed.items() if k.startswith("image")}
        valid = {k.removeprefix("pad_mask_dict/"): v for k, v in observed.items() if k.startswith("pad_mask_dict/image")}
        language = model.embed_text(task["language_instruction/input_ids"], task["language_instruction/attention_mask"])
        goals = {k: v for k, v in task.items() if k.startswith("image")}
        seen = Observation(images, self["in/timestep_pad_mask"], valid)
        return seen, Task(language, task["pad_mask_dict/language_instruction"], goals)


def cases(folder, pattern="*.npz"):
    return {path.stem: path for path in sorted((GOLDEN / folder).glob(pattern))}


@pytest.fixture(scope="session")
def case():
    """case(name): one of the recorded cases."""
    known = {}
    return lambda name: known.setdefault(name, Case(cases("cases")[name]))


@pytest.fixture(scope="session")
def folder():
    return GOLDEN / "checkpoint"


@pytest.fixture(scope="session")
def checkpoint(folder):
    from rpd.teachers.octo.checkpoint import read_checkpoint

    return read_checkpoint(folder, "tiny")


@pytest.fixture(scope="session")
def model(checkpoint, folder):
    from rpd.teachers.octo import weights

    torch.set_num_threads(1)
    return weights.load(checkpoint, folder)


@pytest.fixture
def broken(folder, tmp_path):
    """A copy of the checkpoint, to be spoilt."""
    return Path(shutil.copytree(folder, tmp_path / "octo"))


@pytest.fixture
def edit(broken):
    """Change config.json of the copy: edit(lambda model: ...) is given ``config["model"]``."""

    def change(how, file="config.json"):
        values = json.loads((broken / file).read_text())
        how(values["model"] if file == "config.json" else values)
        (broken / file).write_text(json.dumps(values))
        return broken

    return change
