"""Measure the layout and the prose of a checkout: ``python scripts/measure_house.py [FOLDER]``.

Read the Python sources of rpd, envs, teachers and students as text, without importing them. Prints: modules and packages in
``rpd/``, dependencies among packages, file names that several files share, typed and documented public functions, lines per
function, and two habits of docstrings per 1,000 words.
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("rpd", "envs", "teachers", "students")
Function = ast.FunctionDef | ast.AsyncFunctionDef
CLAUSE = re.compile(r"(?:^|[.:;]\s+)(?:What|Who|Whoever|Whatever|Where|How|Which)\b(?![^.?!]*\?)")
"""A relative clause as a subject or as a whole sentence, e.g. `What a model has to be told.`."""
PERSON = re.compile(
    r"\b(?:told|tells?|says?|said|speaks?|hears?|heard|listens?|wants?|buried|believes?|knows?|deaf|abroad)\b", re.IGNORECASE
)
"""Verbs of speech and perception, which describe programs as people."""


def sources(root: Path) -> dict[str, ast.Module]:
    """Parse every source file; keys are paths below `root`. Folders that are links into the same checkout are read once."""
    files: dict[str, ast.Module] = {}
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            if not any(parent.is_symlink() for parent in path.parents if root in parent.parents):
                files[str(path.relative_to(root))] = ast.parse(path.read_text(encoding="utf-8"))
    return files


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method of a module."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def is_typed(function: Function) -> bool:
    """Whether all arguments but self and cls, and the result, are annotated."""
    a = function.args
    arguments = [x for x in (*a.posonlyargs, *a.args, *a.kwonlyargs) if x.arg not in ("self", "cls")]
    return function.returns is not None and all(x.annotation for x in arguments)


def docstrings(tree: ast.AST) -> Iterator[str]:
    """Docstrings of modules, classes and functions, and those below a field."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def dependencies(files: dict[str, ast.Module], depth: int = 2) -> set[tuple[str, str]]:
    """Pairs of rooms (folders of at most `depth` names, or flat modules of rpd) of which the first imports from the second."""

    def room(parts: list[str]) -> str:
        parts = parts[1:] if parts[0] == "rpd" and len(parts) > 1 and parts[1] in FOLDERS else parts
        return ".".join(parts[:depth])

    modules = {path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in files}
    pairs = set()
    for path, tree in files.items():
        here = room(path.removesuffix(".py").split("/"))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] in FOLDERS:
                    while parts and ".".join(parts) not in modules and ".".join(parts[1:]) not in modules:
                        parts.pop()
                    if parts and (there := room(parts)) != here:
                        pairs.add((here, there))
    return pairs


def measure(root: Path) -> dict[str, str]:
    """Return the numbers, by what they are."""
    files = sources(root)
    every = [f for tree in files.values() for f in functions(tree)]
    public = [f for f in every if not f.name.startswith("_")]
    flat = [p for p in files if p.count("/") == 1 and p.startswith("rpd/") and not p.endswith(("__init__.py", "__main__.py"))]
    packages = [p for p in files if p.startswith("rpd/") and p.count("/") == 2 and p.endswith("__init__.py")]
    shared = {n: k for n, k in Counter(p.rsplit("/", 1)[-1] for p in files if not p.endswith("__init__.py")).items() if k > 1}
    text = "\n".join(d for tree in files.values() for d in docstrings(tree))
    words = len(text.split())
    each = [d for tree in files.values() for d in docstrings(tree)]
    clauses, persons = sum(len(CLAUSE.findall(" ".join(d.split()))) for d in each), len(PERSON.findall(text))
    pairs = dependencies(files)
    return {
        "flat modules and packages in rpd/": f"{len(flat)} and {len(packages)}",
        "dependencies among rooms": f"{len(pairs)} among {len({room for pair in pairs for room in pair})}",
        "file names that several files share": f"{len(shared)} ({sum(shared.values())} files)",
        "functions fully typed": f"{100 * sum(map(is_typed, every)) / len(every):.1f} %",
        "public functions documented": f"{100 * sum(ast.get_docstring(f) is not None for f in public) / len(public):.1f} %",
        "lines per function, median": f"{statistics.median((f.end_lineno or f.lineno) - f.lineno + 1 for f in every):g}",
        "longest file, lines": str(max(len((root / p).read_text().splitlines()) for p in files)),
        "clauses as subjects per 1,000 words of docstring": f"{1000 * clauses / words:.1f}",
        "programs as people per 1,000 words of docstring": f"{1000 * persons / words:.1f}",
    }


def main() -> None:
    """Print the numbers of the folder on the command line, or of this checkout."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    for name, value in measure(root).items():
        print(f"{name:52} {value}")


if __name__ == "__main__":
    main()
