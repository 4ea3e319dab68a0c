"""Program of tests/warm.py: import what commands need, then fork a process per request.

A request is a line of JSON on stdin: ``{"words": [...], "env": {...}, "cwd": ..., "log": ...}`` starts a process, whose id is
the answer; ``{"pid": ...}`` asks for its exit code, null while it runs. ``words`` follow ``python``: ``-m rpd ...``, or a file
and its arguments.
"""

import json
import os
import runpy
import signal
import sys

import tyro  # noqa: F401

import rpd.cli.eval
import rpd.cli.sweep
import rpd.cli.train
import rpd.envs.tabletop.tasks  # noqa: F401


def serve():
    """Answer requests until stdin ends; returns the request only in the process that it starts."""
    for line in sys.stdin:
        request = json.loads(line)
        if "pid" in request:
            pid, status = os.waitpid(request["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not fork"
            answer = os.fork()
            if answer == 0:
                return request
        print(json.dumps(answer), flush=True)
    sys.exit(0)


def become(words, env, cwd, log):
    """Make this process one that was started with the given words, environment, folder and output."""
    log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    become(**serve())
