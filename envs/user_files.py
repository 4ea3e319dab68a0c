"""User Python files that register tasks, robots or teachers: imported here and in every child process.

A file is imported only if the user names it: ``rpd --import FILE``, the environment variable `VARIABLE`, or a task with a
module (``maniskill/my_tasks:MyTask-v1``). Policy folders, runs and demonstrations record the files of their training but
never cause an import: `unknown` mentions them in the error for a missing name.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from rpd.envs.errors import ConfigError, unknown_name

VARIABLE = "RPD_IMPORT"
"""Environment variable with the files, separated as in PATH; passes them to child processes."""

_loaded: list[str] = []
_recorded: dict[str, str] = {}  # file -> folder that recorded it


def load(names: Iterable[str | Path]) -> None:
    """Import files, or modules by name, each once, in order.

    Raises:
        ConfigError: a file is missing, fails on import, or has the name of another module.
    """
    for name in names:
        if str(name).endswith(".py"):
            _load_file(Path(name).expanduser().resolve())
        else:
            load_module(str(name))


def inherit() -> None:
    """Import the files listed in `VARIABLE`; called in child processes.

    Raises:
        ConfigError: see `load`.
    """
    load(name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name)


def load_module(name: str) -> None:
    """Import a module by name: a file of the working directory, or an installed module.

    Raises:
        ConfigError: the module does not exist or fails on import.
    """
    here = Path.cwd() / f"{name}.py"
    if name not in sys.modules and here.is_file():
        load([here])
        return
    if name not in sys.modules:
        with _importing(f"module '{name}'", Path.cwd()):
            importlib.import_module(name)
    require_module(name)


def require_module(name: str) -> None:
    """Require that a module is imported, and register it for child processes.

    Raises:
        ConfigError: the module has not been imported; see `load_module`.
    """
    if name not in sys.modules:
        files = [file for file in _recorded if Path(file).stem == name]
        raise ConfigError(f"module '{name}' is imported only where you name it: add --import {(files or [name])[0]}")
    file = getattr(sys.modules[name], "__file__", None)
    alone = file is not None and "." not in name and Path(file).stem == name
    remember(str(Path(file).resolve()) if file is not None and alone else name)


def remember(name: str) -> None:
    """Register an imported file or module for child processes and for the record in folders."""
    if name not in _loaded:
        _loaded.append(name)
    os.environ[VARIABLE] = os.pathsep.join(_loaded)


def loaded() -> tuple[str, ...]:
    """The imported files (absolute paths) and modules."""
    return tuple(_loaded)


def digests() -> dict[str, str]:
    """First digits of each file's SHA-256, by file name: to compare the imports of two processes."""
    files = [Path(name) for name in _loaded if Path(name).is_file()]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in files}


def record(files: Iterable[str], where: str) -> None:
    """Remember the files that a folder was made with, for the error for a missing name.

    Args:
        files: value of `loaded` when the folder was made.
        where: the folder.
    """
    for file in files:
        _recorded.setdefault(file, where)


def unknown(kind: str, name: str, valid: Iterable[str]) -> ConfigError:
    """Build the error of `unknown_name`; mentions a file that may register the name, if a folder recorded one."""
    error = unknown_name(kind, name, valid)
    missing = [(file, where) for file, where in _recorded.items() if file not in _loaded]
    if not missing:
        return error
    file, where = missing[0]
    return ConfigError(f"{error}; {where} was made with a file of tasks and teachers: add --import {file}")


def _load_file(path: Path) -> None:
    """Execute a file as the module of its name, once."""
    name = path.stem
    if not path.is_file():
        raise ConfigError(f"--import {path}: there is no such file")
    if (other := _other(name, path)) is not None:
        raise ConfigError(f"--import {path}: '{name}' is also the name of {other}: rename the file")
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, path)
        assert found is not None and found.loader is not None, "a file that ends in .py"
        _check_neighbors(path)
        sys.modules[name] = importlib.util.module_from_spec(found)
        try:
            with _importing(str(path), path.parent):
                found.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    remember(str(path))


def _check_neighbors(path: Path) -> None:
    """Raise if a sibling of the file has the name of an imported file's sibling: it would import the wrong one."""
    for folder in {Path(file).parent for file in _loaded if file.endswith(".py")} - {path.parent}:
        for neighbor in sorted(path.parent.glob("*.py")):
            theirs = getattr(sys.modules.get(neighbor.stem), "__file__", None)
            if theirs is not None and Path(theirs).parent == folder:
                raise ConfigError(f"--import {path}: its folder has {neighbor.name}, and {theirs} is imported: rename one")


def _other(name: str, path: Path) -> str | None:
    """The other module of that name, or None."""
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
    elif (found := importlib.util.find_spec(name)) is not None:
        file = found.origin
    else:
        return None
    return None if file is not None and Path(file).resolve() == path else f"module {file or name}"


@contextlib.contextmanager
def _importing(what: str, folder: Path) -> Iterator[None]:
    """Append a folder to the import path, and convert an import error to a one-line ConfigError."""
    sys.path.append(str(folder))
    try:
        yield
    except ConfigError:
        raise
    except SystemExit:
        raise ConfigError(f"{what} ends the program when it is imported: keep that below if __name__ == '__main__'") from None
    except Exception as error:
        raise ConfigError(f"cannot import {what}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(folder))
