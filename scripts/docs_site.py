"""Hooks of MkDocs: pages made from files outside docs/, the page of the command line, and links between them.

Markdown files keep the links that work in the repository; the site rewrites them. Links to files that are not on the site
become text.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from rpd.cli.main import VERBS

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "manual.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "RELEASING.md": "releasing.md",
    "results/README.md": "results.md",
    "teachers/zoo/tabletop/README.md": "zoo/tabletop.md",
    "teachers/zoo/tabletop-octo/README.md": "zoo/tabletop-octo.md",
}
"""Files of the repository, and their pages."""
COMMAND_LINE = "reference/command-line.md"
PARTS = (
    "data collect",
    "teacher show",
    "teacher finetune",
    "teacher convert",
    "robot check",
    "robot contract",
    "doctor --plan",
)
"""Commands with options of their own, apart from the verbs."""
HELP = """
import contextlib, io, json, sys
from rpd.cli.main import main
pages = {}
for name in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*name.split(), "--help"])
    pages[name] = out.getvalue()
print(json.dumps(pages))
"""
"""Program that prints the help of commands as JSON, in one process of its own."""
COMMENT = re.compile(r"^(<!--.*-->)$", re.MULTILINE)
"""Marks of generated tables; a table next to one would not be a block of its own."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, COMMAND_LINE, content=command_line()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links of the repository to links of the site."""
    del config
    source = {site: repository for repository, site in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    on_site = {PAGES.get(name, name.removeprefix("docs/")) for name in PAGES} | {file.src_uri for file in files}

    def rewritten(match: re.Match[str]) -> str:
        image, text, path, anchor = match.groups(default="")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        place = PAGES.get(target, target.removeprefix("docs/"))
        if place not in on_site or not (target in PAGES or target.startswith("docs/")):
            return text
        return f"{image}[{text}]({posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    markdown = COMMENT.sub(r"\n\1\n", markdown)
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(rewritten, part) for part in parts)


def command_line() -> str:
    """The help of every verb, as a page."""
    parts = ["# Command line\n\n`rpd VERB --help` prints the same; `rpd train TASK --help` only the options of the task.\n"]
    names = sorted([*VERBS, *PARTS], key=lambda name: list(VERBS).index(name.split()[0]))
    environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", HELP, *names], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    for name, text in json.loads(done.stdout).items():
        parts.append(f"## rpd {name}\n\n```text\n{text.strip()}\n```\n")
    return "\n".join(parts)
