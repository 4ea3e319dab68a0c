"""Refined policy distillation: from a frozen teacher policy and a reward to a small policy.

The public API. Each name is imported when it is first used; ``import rpd`` imports neither torch nor a simulator.

    import rpd

    run = rpd.train(task="tabletop/PickCube", teacher="scripted:noisy")
    result = rpd.evaluate(run.path, episodes=200)
    print(result.rate, result.interval)

Errors: `ConfigError` is bad input, before anything has started (`SpecMismatch`: a policy, teacher or environment that do not
fit each other); `RunFault` ends a run that cannot go on (`NonFiniteError`, `ServerLost`, `WorkerDied`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from rpd.core.version import __version__

if TYPE_CHECKING:
    from rpd.config.loader import configure
    from rpd.config.schema import RunConfig
    from rpd.envs.config import EnvConfig
    from rpd.envs.errors import ConfigError, NonFiniteError, RunFault, ServerLost, SpecMismatch, WorkerDied
    from rpd.envs.gymnasium_tasks import register_envs
    from rpd.envs.registry import make as make_env
    from rpd.evaluation.evaluate import EvalResult, compare
    from rpd.evaluation.measure import evaluate
    from rpd.evaluation.suite_evaluation import SuiteEvaluation, evaluate_suite
    from rpd.policies.export import export_policy
    from rpd.policies.loading import load_policy
    from rpd.runs.reader import Run, read_run
    from rpd.teachers.registry import make as make_teacher
    from rpd.training.run import resume, train
else:
    _HOMES = {
        "configure": "rpd.config.loader.configure",
        "RunConfig": "rpd.config.schema.RunConfig",
        "EnvConfig": "rpd.envs.config.EnvConfig",
        "ConfigError": "rpd.envs.errors.ConfigError",
        "NonFiniteError": "rpd.envs.errors.NonFiniteError",
        "RunFault": "rpd.envs.errors.RunFault",
        "ServerLost": "rpd.envs.errors.ServerLost",
        "SpecMismatch": "rpd.envs.errors.SpecMismatch",
        "WorkerDied": "rpd.envs.errors.WorkerDied",
        "make_env": "rpd.envs.registry.make",
        "register_envs": "rpd.envs.gymnasium_tasks.register_envs",
        "EvalResult": "rpd.evaluation.evaluate.EvalResult",
        "compare": "rpd.evaluation.evaluate.compare",
        "evaluate": "rpd.evaluation.measure.evaluate",
        "SuiteEvaluation": "rpd.evaluation.suite_evaluation.SuiteEvaluation",
        "evaluate_suite": "rpd.evaluation.suite_evaluation.evaluate_suite",
        "export_policy": "rpd.policies.export.export_policy",
        "load_policy": "rpd.policies.loading.load_policy",
        "Run": "rpd.runs.reader.Run",
        "read_run": "rpd.runs.reader.read_run",
        "make_teacher": "rpd.teachers.registry.make",
        "resume": "rpd.training.run.resume",
        "train": "rpd.training.run.train",
    }

    def __getattr__(name):  # noqa: ANN001, ANN202
        """Import a public name when it is first used (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module 'rpd' has no attribute '{name}'")
        module, _, attribute = _HOMES[name].rpartition(".")
        value = getattr(importlib.import_module(module), attribute)
        globals()[name] = value
        return value

    def __dir__():  # noqa: ANN202
        """Return the public names."""
        return list(__all__)


__all__ = [
    "ConfigError",
    "EnvConfig",
    "EvalResult",
    "NonFiniteError",
    "Run",
    "RunConfig",
    "RunFault",
    "ServerLost",
    "SpecMismatch",
    "SuiteEvaluation",
    "WorkerDied",
    "__version__",
    "compare",
    "configure",
    "evaluate",
    "evaluate_suite",
    "export_policy",
    "load_policy",
    "make_env",
    "make_teacher",
    "read_run",
    "register_envs",
    "resume",
    "train",
]
