"""New interpreters with the import path of this process, without the working directory."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

_START = "import sys; sys.path[:] = {path!r}; {code}"


def python(code: str, *arguments: str) -> list[str]:
    """Return the command line that runs code in a new interpreter.

    ``python -c`` and ``python -m`` search the working directory first: a user's folder ``envs`` or file ``tyro.py`` would
    shadow the real module. The option ``-P`` prevents this only from Python 3.11 on.

    Args:
        code: statements, separated by semicolons; `sys` is imported.
        arguments: arguments in `sys.argv`.
    """
    return [sys.executable, "-c", _START.format(path=[p or os.getcwd() for p in sys.path], code=code), *arguments]


def fresh_python(code: str, *arguments: str) -> list[str]:
    """Return the command line that runs code in a new interpreter with the import path of its installation and PYTHONPATH.

    For processes whose own path has folders of others, e.g. those of a cluster's workers. See `python` for the arguments.
    """
    return [sys.executable, "-c", f"import sys; sys.path[:] = [p for p in sys.path if p]; {code}", *arguments]


def protect_children() -> None:
    """Keep the working directory off the import path of interpreters that libraries start (Python 3.11 or later)."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")


@contextlib.contextmanager
def without_working_dir() -> Iterator[None]:
    """Context for starting `multiprocessing` processes without the working directory on their path, also on Python 3.10.

    A `multiprocessing` child changes back to the working directory once it has its parent's path.
    """
    if sys.version_info >= (3, 11):
        protect_children()
        yield
        return
    with empty_working_dir():
        yield


@contextlib.contextmanager
def empty_working_dir() -> Iterator[None]:
    """Context whose working directory is an empty folder, for libraries that give the working directory to other processes."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        try:
            yield
        finally:
            os.chdir(here)
