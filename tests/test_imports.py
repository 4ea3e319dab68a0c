"""Rules of the layout: who imports whom, no circles, what stays light, small files, no pickle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINKED = ("envs", "teachers", "students", "configs")  # folders of the repository that rpd/ links to
LADDER = (
    ("cli",),
    ("bench",),
    ("deploy", "serve", "training"),
    ("evaluation",),
    ("datasets",),
    ("policies",),
    ("export", "reporting", "algorithms"),
    ("rollout",),
    ("launch",),
    ("runs",),
    ("config",),
    ("core",),
    ("teachers",),
    ("students",),
    ("envs",),
)
"""Packages of `rpd`, highest first. Each may import itself and all that is below it."""
RUNG = {package: i for i, packages in enumerate(LADDER) for package in packages}
SIMULATORS = ("rpd.envs.tabletop", "rpd.envs.navigation", "rpd.envs.maniskill", "rpd.envs.libero", "rpd.envs.gym")
HEAVY = ("mani_skill", "sapien", "stable_baselines3", "matplotlib", "transformers", "pandas", "scipy", "cv2", "IPython")
PROGRAMS = ("rpd.export.runtime",)  # also run by itself, where rpd is not installed
MAX_LINES = 450


def module_of(path: Path) -> str:
    """``envs/specs.py`` -> ``rpd.envs.specs``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "rpd" else ("rpd", *parts))


def sources() -> Iterator[Path]:
    for folder in ("rpd", *LINKED):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if folder != "rpd" or path.relative_to(ROOT).parts[1] not in LINKED:
                yield path


SOURCES = {module_of(path): path for path in sources()}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in SOURCES.items()}


def imports(tree: ast.AST) -> Iterator[str]:
    """Every imported name, in functions and under TYPE_CHECKING too: ``from rpd.envs import specs`` -> ``rpd.envs.specs``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(module: str) -> set[str]:
    """The modules of this project that one imports."""
    found = {name if name in SOURCES else name.rpartition(".")[0] for name in imports(TREES[module])}
    return {name for name in found if name in SOURCES and name != module}


@pytest.mark.parametrize("module", SOURCES)
def test_source_file(module):
    path, tree = SOURCES[module], TREES[module]
    package = module.split(".")[1] if module.count(".") else ""
    for name in imports(tree):
        top, _, rest = name.partition(".")
        assert top not in LINKED, f"import rpd.{name}: {top} is no package of its own where rpd is installed"
        below = rest.split(".")[0]
        if top == "rpd" and package in RUNG and below in RUNG and below != package:
            assert RUNG[below] > RUNG[package], f"rpd.{package} must not import {name}"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES, "one idea per file"
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function = ast.unparse(call.func)
        assert function != "print" or package == "cli" or module in PROGRAMS, "the library logs, and the command line prints"
        assert function not in ("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load"), "no pickle from files"
        if function == "torch.load":
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in call.keywords), "weights_only=True"


def test_one_noun_per_package():
    flat = {path.name for path in (ROOT / "rpd").glob("*.py")}
    assert flat == {"__init__.py", "__main__.py"}
    folders = {p.name for p in (ROOT / "rpd").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders == set(RUNG) | set(LINKED)


def test_no_import_circles():
    graph = {module: imported_modules(module) for module in SOURCES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_only_the_command_line_imports_a_trainer():
    """Others use `rpd.training.run`, or what trainers share."""
    trainers = {
        module
        for module, tree in TREES.items()
        if any(
            isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "TrainingLoop" for base in node.bases)
            for node in tree.body
        )
    }
    assert len(trainers) == 4
    importers = {module for module in SOURCES if imported_modules(module) & trainers}
    assert {module for module in importers if not module.startswith("rpd.cli.")} == {"rpd.training.run"}


def test_deploy_imports_no_simulator():
    reached, waiting = set(), [module for module in SOURCES if module.startswith("rpd.deploy")]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += imported_modules(module)
    assert not [module for module in sorted(reached) if module.startswith(SIMULATORS)]


def test_core_stays_light():
    """A fresh interpreter imports the command line and the registries without any heavy package."""
    code = f"""
import sys
import rpd.cli.main, rpd.envs.registry, rpd.teachers.registry, rpd.students.actor_critic
import rpd.teachers.adapters.student, rpd.teachers.adapters.sb3, rpd.teachers.openvla
print(*sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def test_launchers_stay_light():
    """A process on a cluster imports no torch before its command does, and no cluster's package is imported without need."""
    code = "import sys, rpd.launch.choose; print(*sorted({'torch', 'ray', 'submitit'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and result.stdout.split() == [], result.stdout + result.stderr


def test_public_api_is_lazy():
    """``import rpd`` costs nothing; what a user catches, configures and lists comes without torch."""
    code = """
import sys
import rpd
print(*sorted({"torch", "numpy", "pydantic", "tyro", "yaml", "rich"} & set(sys.modules)))
rpd.ConfigError, rpd.RunConfig, rpd.EnvConfig, rpd.configure("tabletop/Reach"), dir(rpd)
print(*{"torch"} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "\n\n"


def test_public_api_matches_type_checking_imports():
    """The names of `rpd.__all__`, those imported under TYPE_CHECKING, and those imported on use are the same objects."""
    import rpd

    (guarded,) = [node for node in TREES["rpd"].body if isinstance(node, ast.If)]
    seen = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == rpd._HOMES and {*seen, "__version__"} == set(rpd.__all__) == set(dir(rpd))
    for name in rpd.__all__:
        assert getattr(rpd, name).__doc__ or name == "__version__", f"{name} is documented"
    with pytest.raises(AttributeError, match="module 'rpd' has no attribute 'trian'"):
        rpd.trian  # noqa: B018


def test_missing_extra_is_one_line():
    """Without stable-baselines3, its adapter says what to install."""
    code = """
import sys
sys.modules["stable_baselines3"] = None
from rpd.envs.errors import ConfigError
try:
    import rpd.envs.wrappers.sb3
except ConfigError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "[sb3]" in result.stdout and result.stdout.count("\n") == 1
