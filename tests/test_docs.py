"""The documentation site: it builds without a warning, and has a page of every public name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rpd

ROOT = Path(__file__).parent.parent


def test_every_public_name_has_a_place_in_the_reference():
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
    assert sorted(re.findall(r"^::: rpd\.(\w+)$", pages, re.MULTILINE)) == sorted(set(rpd.__all__) - {"__version__"})


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path):
    """Every page is in the navigation, links and anchors lead somewhere, and nothing is loaded from elsewhere."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference" / "command-line.html").read_text()
    assert "--ppo.learning-rate" in page and "rpd doctor --plan" in page
    loaded = re.findall(r"<(?:script|link|img)[^>]* (?:src|href)=\"?(https?:[^\" >]+)", (tmp_path / "index.html").read_text())
    assert not loaded
    source = (ROOT / "docs" / "generalist.md").read_text()
    tables = len(re.findall(r"^\|(?: ?:?-+:? ?\|)+$", source, re.MULTILINE))
    assert (tmp_path / "generalist.html").read_text().count("<table>") == tables > 2
    assert "tabletop/PickCube" in (tmp_path / "manual.html").read_text()
