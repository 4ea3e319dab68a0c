"""Tabletop tasks by name: initial states, instructions, rewards and success criteria."""

from rpd.envs.tabletop.tasks import grasp, pusht, reach, slide
from rpd.envs.tabletop.tasks.base import COLORS, Frame, Placement, Task, play_area

__all__ = ["COLORS", "TASKS", "Frame", "Placement", "Task", "play_area"]

TASKS: dict[str, Task] = {task.name: task for task in (*reach.TASKS, *slide.TASKS, *grasp.TASKS, *pusht.TASKS)}
