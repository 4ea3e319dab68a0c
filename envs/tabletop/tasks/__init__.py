"""The tabletop tasks by name: where things start, what is asked, what is rewarded, what counts as success."""

from envs.tabletop.tasks import grasp, reach, slide, tee
from envs.tabletop.tasks.base import COLORS, Frame, Placement, Task, play_area

__all__ = ["COLORS", "TASKS", "Frame", "Placement", "Task", "play_area"]

TASKS: dict[str, Task] = {task.name: task for task in (*reach.TASKS, *slide.TASKS, *grasp.TASKS, *tee.TASKS)}
