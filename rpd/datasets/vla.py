"""Minibatches of demonstrations for VLA fine-tuning: in memory, resized once, and balanced over tasks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rpd.config.vla_finetuning import CloneConfig
from rpd.datasets.corrections import steps_ahead
from rpd.datasets.reader import Demos
from rpd.datasets.steps import Rows
from rpd.envs.errors import ConfigError
from rpd.envs.specs import ActionSpec
from rpd.students.row_share import RowShare
from rpd.teachers.vla.trainable import Minibatch


class CloneData:
    """Rows of demonstrations, split by episode into training and validation rows.

    Attributes:
        camera: key of the images.
        train: [R] indices of training rows.
        held_out: [V] indices of validation rows.
    """

    def __init__(self, demos: Demos, camera: str, scene: bool, config: CloneConfig, horizon: int = 1) -> None:
        """Load labels (`horizon` per row in a minibatch) and as many images as fit; hold out episodes of each task.

        Raises:
            ConfigError: a task has too few episodes to hold one out, or none of its steps is a demonstration.
        """
        self.camera, self._scene, self._ahead = camera, scene, torch.arange(horizon)
        self.rows = Rows(demos, (camera, *(["privileged"] if scene else [])), config.max_bytes)
        labels = [demos.read(i, "label")[: episode.length] for i, episode in enumerate(demos.episodes)]
        self.labels = torch.from_numpy(np.concatenate(labels))
        taught = [demos.demonstrated(i) for i in range(len(demos))]
        self._left = torch.from_numpy(np.concatenate([steps_ahead(part) for part in taught]))  # [R] that follow in the episode
        task_of = torch.tensor([demos.tasks.index(episode.task) for episode in demos.episodes])
        held = torch.zeros(len(demos), dtype=torch.bool)
        for task, name in enumerate(demos.tasks):
            episodes = (task_of == task).nonzero()[:, 0]
            if len(episodes) < 2:
                raise ConfigError(f"{name}: {len(episodes)} episode: at least 2 are needed, one to learn from and one to check")
            held[episodes[:: max(2, round(1 / config.validation))]] = True
        usable = torch.from_numpy(np.concatenate(taught))
        self.train = ((~held)[self.rows.episode] & usable).nonzero()[:, 0]
        self.held_out = (held[self.rows.episode] & usable).nonzero()[:, 0]
        if not len(self.train):
            raise ConfigError("no step of these records is a demonstration: the operator never took over")
        tasks = task_of[self.rows.episode[self.train]]
        share = torch.bincount(tasks, minlength=len(demos.tasks)).double() ** -config.balance
        self._cumulative = share[tasks].cumsum(0)

    def prepare(self, resize: Callable[[Tensor], Tensor]) -> None:
        """Resize the images in memory, once."""
        images = self.rows.tensors.get(self.camera)
        if images is not None:
            self.rows.tensors[self.camera] = torch.cat([resize(part) for part in images.split(4096)])

    def sample(self, share: RowShare, generator: torch.Generator) -> Minibatch:
        """Draw a process's share of `share.total` training rows with replacement, balanced over tasks by `balance`."""
        drawn = share.of(torch.rand(share.total, generator=generator, dtype=torch.float64)) * self._cumulative[-1]
        return self.batch(self.train[torch.searchsorted(self._cumulative, drawn).clamp_max(len(self.train) - 1)])

    def batch(self, index: Tensor) -> Minibatch:
        """Return the rows `index` [N]."""
        rows, left = self.rows[index], self._left[index, None]
        actions = self.labels[index[:, None] + self._ahead.minimum(left)]  # [N, H, A]
        scene = rows["privileged"] if self._scene else None
        return Minibatch(rows[self.camera], self.rows.instructions(index), actions, self._ahead <= left, scene)


def camera_of(demos: Demos, wanted: str | None) -> str:
    """Return the key of the training images.

    Raises:
        ConfigError: unknown camera, or no images.
    """
    if not demos.cameras:
        raise ConfigError("these demonstrations have no images: record them with --env.obs-mode rgb")
    key = demos.cameras[0] if wanted is None else f"image.{wanted}"
    if key not in demos.cameras:
        have = ", ".join(c.removeprefix("image.") for c in demos.cameras)
        raise ConfigError(f"camera '{wanted}' was not recorded in all of these demonstrations; recorded: {have}")
    return key


def action_space(demos: Demos) -> ActionSpec:
    """Return the action space that all tasks share.

    Raises:
        ConfigError: an action space is unknown, or tasks differ: one model needs one meaning per action dimension.
    """
    if missing := [task for task in demos.tasks if task not in demos.specs]:
        raise ConfigError(
            f"demonstrations of {', '.join(missing)} have no spec of their actions: record them with `rpd data collect`"
        )
    (first, space), *others = ((task, demos.specs[task].action) for task in demos.tasks)
    for task, other in others:
        if other != space:
            raise ConfigError(f"the actions of {first} and {task} differ in names, units or scale: train a model for each")
    return space
