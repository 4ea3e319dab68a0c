"""The command line: one function per verb; parse, call, print.

Each verb imports its modules after parsing its options: importing torch takes seconds, and help and errors must appear at
once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from rpd.cli.messages import show_messages
from rpd.core import rank_reports
from rpd.core.children import follow_parent
from rpd.core.interrupt import Interrupted
from rpd.core.ranks import rank, world_size
from rpd.core.user_code import remember_script, take_imports
from rpd.envs.errors import ConfigError, RunFault, unknown_name
from rpd.envs.processes import protect_children

if TYPE_CHECKING:
    from rpd.cli.options.train import TrainOptions


def train(args: list[str]) -> int:
    """Train a student."""
    from rpd.cli.options.train import train_options

    return _start_or_resume(train_options(args))


def residual(args: list[str]) -> int:
    """Train a student that corrects a frozen base."""
    from rpd.cli.options.train import residual_options

    return _start_or_resume(residual_options(args))


def _start_or_resume(options: TrainOptions) -> int:
    from rpd.cli import train as run

    if options.resume is not None:
        return run.resume(options.resume, options.run_config().model_dump(), options.results)
    return run.start(options.run_config(), options.runs_dir, options.name, options.results)


def sweep(args: list[str]) -> int:
    """Train every (task, robot, seed) of a file."""
    from rpd.cli.options.sweep import SweepOptions
    from rpd.config.parser import parse

    options = parse(SweepOptions, args, "rpd sweep")
    from rpd.cli import sweep as sweeping

    return sweeping.main(options)


def tune(args: list[str]) -> int:
    """Search the settings of a method for a task."""
    from rpd.cli.options.tune import tune_options

    options = tune_options(args)
    from rpd.cli import tune as tuning

    return tuning.main(options, ["tune", *args])


def generalist(args: list[str]) -> int:
    """Distill the specialists of several robots into one policy."""
    from rpd.cli.options.generalist import GeneralistOptions
    from rpd.cli.options.run_folder import run_options

    options = run_options(GeneralistOptions, args, "rpd generalist")
    from rpd.cli import generalist as command

    return command.main(options)


def evaluate(args: list[str]) -> int:
    """Measure a policy, or compare two on the same episodes."""
    from rpd.cli.options.eval import EvalOptions
    from rpd.config.parser import parse

    options = parse(EvalOptions, args, "rpd eval")
    from rpd.cli import eval as evaluation

    return evaluation.main(options)


def data(args: list[str]) -> int:
    """Record demonstrations, show them, or export them for LeRobot."""
    from rpd.config.parser import parse

    if args[:1] == ["collect"]:
        from rpd.cli.options.collect import collect_options

        collected = collect_options(args[1:])
        from rpd.cli import collect

        return collect.main(collected)
    from rpd.cli.options.data import DataOptions

    options = parse(DataOptions, args, "rpd data")
    from rpd.cli import data as command

    return command.main(options)


def serve(args: list[str]) -> int:
    """Serve a policy over a websocket."""
    from rpd.config.parser import parse
    from rpd.config.serve import ServeConfig

    options = parse(ServeConfig, args, "rpd serve")
    if options.replicas > 1:
        from rpd.cli import serve_replicas

        return serve_replicas.main(options)
    from rpd.cli import serve as serving

    return serving.main(options)


def deploy(args: list[str]) -> int:
    """Run a policy on a robot."""
    from rpd.config.deploy import DeployConfig
    from rpd.config.parser import parse

    options = parse(DeployConfig, args, "rpd deploy")
    from rpd.cli import deploy as command

    return command.main(options)


def robot(args: list[str]) -> int:
    """Bring a robot into service, or check a driver of your own."""
    from rpd.cli import robot as robots

    return robots.main(args)


def log(args: list[str]) -> int:
    """Show a recording of a deployment, or compare a policy with it."""
    from rpd.cli.options.log import LogOptions
    from rpd.config.parser import parse

    options = parse(LogOptions, args, "rpd log")
    from rpd.cli import log as replaying

    return replaying.main(options)


def list_(args: list[str]) -> int:
    """List tasks, robots, teachers and settings."""
    from rpd.cli.options.listing import ListOptions
    from rpd.config.parser import parse

    options = parse(ListOptions, args, "rpd list")
    from rpd.cli import list as listing

    return listing.main(options)


def teacher(args: list[str]) -> int:
    """Show a teacher's inputs and actions, fine-tune one, or convert its checkpoint."""
    from rpd.cli import teacher as teachers

    return teachers.main(args)


def export(args: list[str]) -> int:
    """Write a policy for a robot's computer."""
    from rpd.cli.options.export import ExportOptions
    from rpd.config.parser import parse

    options = parse(ExportOptions, args, "rpd export")
    from rpd.cli import export as command

    return command.main(options)


def report(args: list[str]) -> int:
    """Write a report of one or several runs, and figures and tables for a paper."""
    from rpd.cli.options.report import ReportOptions
    from rpd.config.parser import parse

    options = parse(ReportOptions, args, "rpd report")
    from rpd.cli import report as command

    return command.main(options)


def bench(args: list[str]) -> int:
    """Measure speed on this machine."""
    from rpd.cli.options.bench import BenchOptions
    from rpd.config.parser import parse

    options = parse(BenchOptions, args, "rpd bench")
    from rpd.cli import bench as command

    return command.main(options)


def doctor(args: list[str]) -> int:
    """Check this machine, with the fix for each problem; or, with --plan, what memory a run needs."""
    from rpd.cli import doctor as checks
    from rpd.cli.options.plan import plan_config
    from rpd.config.parser import parse

    if args[:1] == ["--plan"]:
        config = plan_config(args[1:])
        from rpd.cli import plan

        return plan.main(config)
    parse(checks.DoctorOptions, args, "rpd doctor")
    return checks.main()


VERBS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "residual": residual,
    "sweep": sweep,
    "tune": tune,
    "generalist": generalist,
    "eval": evaluate,
    "data": data,
    "serve": serve,
    "deploy": deploy,
    "robot": robot,
    "log": log,
    "list": list_,
    "teacher": teacher,
    "export": export,
    "report": report,
    "bench": bench,
    "doctor": doctor,
}


RENAMED = {
    "distill": "generalist", "collect": "data collect", "demos": "data", "replay": "log", "convert": "teacher convert",
}  # fmt: skip
"""Verbs by their names of version 0.1."""


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0: done. 1: a run that could not go on. 2: bad input, before anything started. 130: interrupted.
    """
    show_messages()
    protect_children()
    follow_parent()
    verb = ""
    try:
        if world_size() > 1:  # before torch is imported: its traces of closed connections hide the line that names the cause
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        verb, *args = take_imports(sys.argv[1:] if argv is None else argv) or ["--help"]
        remember_script(sys._getframe(1).f_globals)
        try:
            return _dispatch(verb, args)
        finally:
            sys.stdout.flush()  # here, where a closed pipe is handled: not at the interpreter's exit
    except ConfigError as error:
        return _fail(verb, str(error), 2)
    except RunFault as error:
        return _fail(verb, str(error), 1)
    except BrokenPipeError:  # the reader closed the pipe, e.g. `rpd list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder that may not be written
        return _fail(verb, f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except Interrupted:  # how to continue has been printed
        return 130
    except KeyboardInterrupt:
        return _fail(verb, "interrupted", 130)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return _fail(verb, f"out of memory: {error}: lower what is asked for at once, e.g. environments, steps or images", 1)


def _dispatch(verb: str, args: list[str]) -> int:
    """Run one verb, or print what an option asks for; returns the exit code."""
    if verb in ("-h", "--help", "help"):
        print("usage: rpd VERB ...   (rpd VERB --help for its options)\n")
        print("\n".join(f"  {name:10} {function.__doc__}" for name, function in VERBS.items()))
        print("\nEvery verb: --import FILE.py, or a module, that registers tasks, robots or teachers of your own.")
        print("Shell completion: rpd --print-completion bash, see the README.")
        return 0
    if verb == "--version":
        from rpd.core.version import __version__

        print(__version__)
        return 0
    if verb == "--print-completion":
        from rpd.cli.completion import script

        print(script(args[0] if args else ""), end="")
        return 0
    if world_size() > 1 and verb not in ("train", "residual", "generalist", "teacher"):
        raise ConfigError(f"rpd {verb} runs as one process: start it without torchrun")
    if verb not in VERBS:
        if verb in RENAMED:
            raise ConfigError(f"unknown verb '{verb}': it is `rpd {RENAMED[verb]}` now")
        raise unknown_name("verb", verb, VERBS)
    return VERBS[verb](args)


def out_of_memory(error: Exception) -> bool:
    """Whether numpy, torch on the CPU or torch on a GPU could not allocate; without importing either."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)


def _fail(verb: str, message: str, code: int) -> int:
    """Print why the verb has failed, on one of several ranks that fail alike; returns the exit code."""
    name = f"rpd {verb}" if verb in VERBS else "rpd"
    text, size, bad_input = " ".join(message.split()), world_size(), code == 2
    if size == 1:
        print(f"{name}: {text}", file=sys.stderr)
        return code
    if rank() == 0 or not (bad_input and rank_reports.is_published(text, rank())):
        print(f"{name} (rank {rank()}): {text}", file=sys.stderr, flush=True)
    if rank() == 0:
        rank_reports.publish(text, size, bad_input)
    return code


if __name__ == "__main__":
    sys.exit(main())
