"""The command line: one function per verb; parse, call, print. What a verb needs is imported by the verb."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from envs.errors import ConfigError, RunFault, unknown_name


def train(args: list[str]) -> int:
    """Train a student."""
    from rpd import run
    from rpd.settings import train_options

    options = train_options(args)
    if options.resume is not None:
        return run.resume(options.resume)
    return run.start(options.run_config(), options.runs_dir, options.name)


def residual(args: list[str]) -> int:
    """Train a student that corrects a frozen base."""
    from rpd import run
    from rpd.settings import residual_options

    options = residual_options(args)
    if options.resume is not None:
        return run.resume(options.resume)
    return run.start(options.run_config(), options.runs_dir, options.name)


def sweep(args: list[str]) -> int:
    """Train every (task, robot, seed) of a file."""
    from rpd import sweep as sweeping
    from rpd.arguments import parse

    return sweeping.main(parse(sweeping.SweepOptions, args, "rpd sweep"))


def distil(args: list[str]) -> int:
    """Distil the specialists of several robots into one policy."""
    from rpd.arguments import parse
    from rpd.generalist import command
    from rpd.generalist.config import DistillOptions

    return command.main(parse(DistillOptions, args, "rpd distill"))


def evaluate(args: list[str]) -> int:
    """Measure a policy, or compare two on the same episodes."""
    from rpd import evaluation
    from rpd.arguments import parse

    return evaluation.main(parse(evaluation.EvalOptions, args, "rpd eval"))


def collect(args: list[str]) -> int:
    """Record demonstrations."""
    from rpd import collect as recording

    return recording.main(recording.collect_options(args))


def demos(args: list[str]) -> int:
    """Show demonstrations, or export them for LeRobot."""
    from rpd.arguments import parse
    from rpd.demos import command

    return command.main(parse(command.DemosOptions, args, "rpd demos"))


def serve(args: list[str]) -> int:
    """Serve a policy over a websocket."""
    from rpd.arguments import parse
    from rpd.serve import main as serving

    return serving.main(parse(serving.ServeOptions, args, "rpd serve"))


def deploy(args: list[str]) -> int:
    """Run a policy on a robot."""
    from rpd.arguments import parse
    from rpd.deploy import command

    return command.main(parse(command.DeployOptions, args, "rpd deploy"))


def replay(args: list[str]) -> int:
    """Show a record of a deployment, or ask a policy about it."""
    from rpd.arguments import parse
    from rpd.deploy import replay as replaying

    return replaying.main(parse(replaying.ReplayOptions, args, "rpd replay"))


def list_(args: list[str]) -> int:
    """List tasks, robots, teachers and settings."""
    from rpd import listing
    from rpd.arguments import NoOptions, parse

    parse(NoOptions, args, "rpd list")
    return listing.main()


def teacher(args: list[str]) -> int:
    """Show what a teacher sees and what its actions mean."""
    from rpd import teacher as teachers

    return teachers.main(args)


def convert(args: list[str]) -> int:
    """Convert a teacher's checkpoint into one that loads faster."""
    from rpd import convert as conversion

    return conversion.main(args)


def export(args: list[str]) -> int:
    """Write a policy for a robot's computer."""
    from rpd.arguments import parse
    from rpd.export import command

    return command.main(parse(command.ExportOptions, args, "rpd export"))


def report(args: list[str]) -> int:
    """Write an HTML report of one or several runs."""
    from rpd.arguments import ReportOptions, parse
    from rpd.report import write

    options = parse(ReportOptions, args, "rpd report")
    print(write(options.runs, options.out))
    return 0


def bench(args: list[str]) -> int:
    """Measure speed on this machine."""
    from rpd.arguments import parse
    from rpd.bench import command

    return command.main(parse(command.BenchOptions, args, "rpd bench"))


def doctor(args: list[str]) -> int:
    """Check this machine, with the fix for each problem; or, with --plan, what memory a run needs."""
    from rpd import doctor as checks
    from rpd.arguments import parse

    if args[:1] == ["--plan"]:
        from rpd import plan

        return plan.main(args[1:])
    parse(checks.DoctorOptions, args, "rpd doctor")
    return checks.main()


VERBS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "residual": residual,
    "sweep": sweep,
    "distill": distil,
    "eval": evaluate,
    "collect": collect,
    "demos": demos,
    "serve": serve,
    "deploy": deploy,
    "replay": replay,
    "list": list_,
    "teacher": teacher,
    "convert": convert,
    "export": export,
    "report": report,
    "bench": bench,
    "doctor": doctor,
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0: done. 1: a run that could not go on. 2: bad input, before anything started. 130: interrupted.
    """
    verb, *args = (sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        if verb in ("-h", "--help", "help"):
            print("usage: rpd VERB ...   (rpd VERB --help for its options)\n")
            print("\n".join(f"  {name:8} {function.__doc__}" for name, function in VERBS.items()))
            return 0
        if verb == "--version":
            from rpd import __version__

            print(__version__)
            return 0
        if verb not in VERBS:
            raise unknown_name("verb", verb, VERBS)
        return VERBS[verb](args)
    except ConfigError as error:
        return _fail(verb, str(error), 2)
    except RunFault as error:
        return _fail(verb, str(error), 1)
    except BrokenPipeError:  # whoever read the output has seen enough, e.g. `rpd list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder that may not be written
        return _fail(verb, f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except KeyboardInterrupt:
        return _fail(verb, "interrupted", 130)


def _fail(verb: str, message: str, code: int) -> int:
    name = f"rpd {verb}" if verb in VERBS else "rpd"
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
