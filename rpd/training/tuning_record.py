"""Record of a search: its settings, to continue it only as it began, and tuning.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rpd.config.tuning import nested
from rpd.core.files import write_json, write_text
from rpd.envs.errors import ConfigError
from rpd.runs.provenance import environment_info
from rpd.training.tuning import PROBLEM, RUN, STEPS, Search, best_of, run_name

if TYPE_CHECKING:
    from optuna import Study

SETTINGS, RECORD = "tuning.yaml", "tuning.json"


def begin(search: Search) -> None:
    """Write what a search is, or check that it is the same as before; only the number of trials may change.

    Raises:
        ConfigError: the folder has another search.
    """
    path = search.folder / SETTINGS
    text = yaml.safe_dump({
        "config": search.config.model_dump(mode="json"),
        "space": _space(search),
        "seeds": list(search.seeds),
    }, sort_keys=False)  # fmt: skip
    if path.exists() and path.read_text() != text:
        raise ConfigError(f"{path} is of a search with other settings: choose another folder with --name")
    write_text(path, text)


def write_record(search: Search, study: Study, space_file: Path, command: str) -> None:
    """Write tuning.json: command, space, budget, seeds, all trials and the best, commit and machine."""
    rows = [
        {
            "number": t.user_attrs.get(RUN, t.number),
            "state": t.state.name.lower(),
            "value": t.value,
            "settings": t.params,
            "curve": [[step, value] for step, value in sorted(t.intermediate_values.items())],
            "steps": t.user_attrs.get(STEPS),
            "problem": t.user_attrs.get(PROBLEM),
            "runs": [run_name(t.user_attrs.get(RUN, t.number), seed) for seed in search.seeds],
        }
        for t in study.trials
        if t.state.name != "WAITING" and (t.state.name != "FAIL" or PROBLEM in t.user_attrs)
    ]
    complete = any(row["state"] == "complete" for row in rows)
    write_json(
        search.folder / RECORD,
        {
            "schema_version": 1,
            "command": command,
            "task": search.config.task,
            "algorithm": search.config.algorithm,
            "teacher": search.config.teacher,
            "space_file": str(space_file),
            "space": _space(search),
            "budget": {
                "trials": search.trials,
                "seeds_per_trial": search.seeds_per_trial,
                "steps_per_run": search.config.total_timesteps,
                "steps_used": sum(row["steps"] or 0 for row in rows),
            },
            "seeds": list(search.seeds),
            "eval_seed_offset": search.config.eval_seed_offset,
            "objective": "mean success of the evaluations of the learning curve, over the seeds",
            "trials": rows,
            "best": nested(best_of(study).params) if complete else None,
            **environment_info(),
        },
    )


def _space(search: Search) -> dict[str, Any]:
    return {name: dimension.model_dump(mode="json", exclude_defaults=True) for name, dimension in search.space.items()}
