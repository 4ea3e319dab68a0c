"""Check the wording of docstrings, comments, messages, docs and test names: ``python scripts/check_prose.py [PATH ...]``.

Plain engineering English is easier to scan: the noun or the verb first, and no programs that speak, hear or want. A finding is
printed as ``file:line: word: the line``; the exit status is 1 if there is any. Text in backquotes and code blocks is not read.
"""

from __future__ import annotations

import ast
import io
import os
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATHS = ("README.md", "CHANGELOG.md", "rpd", "envs", "teachers", "students", "configs", "scripts", "tests", "docs")
WORDS = re.compile(
    r"\b(abroad|anew|believ(?:es|ed)|beside|deaf|hear[sd]?|knows|nobody|said|says|shall|somebody|tells|told|wants|whoever)\b",
    re.IGNORECASE,
)
CLAUSE = re.compile(r"(?:^|[.:;] )(?:What|Who|Whose|Whoever|Whatever|Where|How|Which)\b(?![^.?!]*\?)")
"""A relative clause as a subject or as a whole sentence: "What a model has to be told."."""
CODE = re.compile(r"``.*?``|`[^`]*`")
FENCE = re.compile(r"^\s*(```|~~~)")

Line = tuple[int, str]


def python_prose(text: str) -> Iterator[tuple[int, str, bool]]:
    """Line number, text, and whether it is a docstring, of each docstring, comment and message of a module."""
    tree = ast.parse(text)
    documented = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(" ") >= 2:
            yield node.lineno, node.value, id(node) in documented
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# "), False


def python_findings(text: str, is_test: bool) -> Iterator[Line]:
    """Findings of a Python file: of its test names if it is a test, else of its prose."""
    if is_test:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                words = node.name.removeprefix("test_").replace("_", " ")
                yield from ((node.lineno, hit) for hit in hits(words, clauses=False))
                if re.match(r"(what|who|whose|whoever|whatever)\b", words):
                    yield node.lineno, words
        return
    for number, prose, is_docstring in python_prose(text):
        yield from ((number, hit) for hit in hits(prose, clauses=is_docstring))


def text_findings(text: str, comments: bool) -> Iterator[Line]:
    """Findings of Markdown outside code blocks, or of the comments of a YAML file."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if FENCE.match(line):
            fenced = not fenced
        elif comments and "#" in line:
            yield from ((number, hit) for hit in hits(line.partition("#")[2], clauses=False))
        elif not comments and not fenced:
            yield from ((number, hit) for hit in hits(line, clauses=False))


def hits(prose: str, clauses: bool) -> Iterator[str]:
    """Each word of the list, and each clause as a subject, with a few words around it."""
    plain = " ".join(CODE.sub("CODE", prose).split())
    for pattern in (WORDS, CLAUSE) if clauses else (WORDS,):
        for match in pattern.finditer(plain):
            yield f"{match[0].strip('.:; ')}: {plain[max(0, match.start() - 40) : match.end() + 40]}"


def findings(path: Path) -> Iterator[Line]:
    """Findings of one file, by its kind."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from python_findings(text, "tests" in path.parts)
    else:
        yield from text_findings(text, comments=path.suffix == ".yaml")


def files(path: Path) -> Iterator[Path]:
    """Python, Markdown and YAML files at or below a path; links and hidden folders are left out."""
    if path.is_file():
        yield path
        return
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = sorted(n for n in subfolders if not n.startswith(".") and n not in ("runs", "build", "dist"))
        yield from (Path(folder) / n for n in sorted(names) if n.endswith((".py", ".md", ".yaml")))


def main(arguments: list[str]) -> int:
    """Check the files below the given paths, or the project's."""
    count = 0
    for path in (file for name in arguments or PATHS for file in files(ROOT / name)):
        if path.resolve() == Path(__file__).resolve():
            continue
        for number, what in sorted(findings(path)):
            print(f"{path.relative_to(ROOT)}:{number}: {what}")
            count += 1
    return int(count > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
