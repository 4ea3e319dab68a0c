"""The grammar of policy references, and one-line refusals of what does not follow it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpd.envs.errors import ConfigError
from rpd.export import runtime
from rpd.students.io.policy_path import EXPORTED
from rpd.teachers import registry, zoo
from rpd.teachers.refs import parse, required_path, teacher_of, trained_path


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("scripted", ("scripted", None, {})),
        ("scripted:", ("scripted", None, {})),
        ("scripted:noise=0.5,bias=0.02", ("scripted", None, {"noise": "0.5", "bias": "0.02"})),
        ("scripted,noise=0.5", ("scripted", None, {"noise": "0.5"})),
        ("remote:ws://host:8000, k = v", ("remote", "ws://host:8000", {"k": "v"})),
        ("remote:ws://a:1,ws://b:2", ("remote", "ws://a:1,ws://b:2", {})),
        ("remote:ws://a:1, wss://b/x ,k=ws://c,l=m", ("remote", "ws://a:1,wss://b/x", {"k": "ws://c", "l": "m"})),
        ("remote:ws://a:1,k=v,ws://b:2", ("remote", "ws://a:1,ws://b:2", {"k": "v"})),
        ("zero", ("zero", None, {})),
        ("runs/x", (None, "runs/x", {})),
        ("runs/lr=3/x,k=v", (None, "runs/lr=3/x", {"k": "v"})),
        ("./scripted", (None, "./scripted", {})),
        ("./zero", (None, "./zero", {})),
        ("./zoo/tabletop", (None, "./zoo/tabletop", {})),
        ("scripted/x", (None, "scripted/x", {})),
    ],
)
def test_parse(text, parsed):
    ref = parse(text)
    assert (ref.family, ref.argument, ref.options) == parsed and ref.text == text
    assert [ref.is_teacher, ref.is_baseline, ref.path is not None].count(True) == 1


def test_a_model_that_ships():
    ref = parse("zoo/tabletop,crop=0.9")
    assert (ref.family, ref.options) == ("openvla", {"crop": "0.9"}) and ref.is_teacher
    assert ref.argument == str(Path(zoo.__file__).parent / "tabletop")


def test_names_take_precedence_over_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("scripted", "zero", "zoo/tabletop"):
        Path(name).mkdir(parents=True)
        assert parse(name).path is None
        assert trained_path(f"./{name}") == Path(name)


@pytest.mark.parametrize("name", ["scripted", "scripted:x", "zero", "zoo/tabletop", "policy:x", "runs/x"])
def test_a_path_object_is_a_path(name):
    ref = parse(Path(name))
    assert ref.path == Path(name) == parse(ref.text).path


def test_a_folder_with_commas_in_its_name(tmp_path):
    """As of a sweep over settings; options follow."""
    folder = tmp_path / "vla,lr=0.1,rank=32"
    folder.mkdir()
    assert parse(f"openvla:{folder},crop=0.9").argument == str(folder)
    assert parse(str(folder)).path == folder and parse(f"{folder},samples=3").options == {"samples": "3"}
    (tmp_path / "vla,lr=0.1").mkdir()
    for ref in (f"openvla:{folder}", str(folder)):
        with pytest.raises(ConfigError, match=r"can mean '.*,lr=0.1' and '.*,lr=0.1,rank=32', which both exist: rename one"):
            parse(ref)


@pytest.mark.parametrize(
    ("old", "today"),
    [
        ("teacher:scripted", "scripted"),
        ("teacher:zoo/tabletop", "zoo/tabletop"),
        ("teacher:remote:ws://h:1", "remote:ws://h:1"),
        ("policy:runs/x", "runs/x"),
        ("policy:runs/x,samples=3", "runs/x,samples=3"),
        ("teacher:policy:runs/x", "runs/x"),
        ("policy:scripted", "./scripted"),
    ],
)
def test_references_of_version_0_1_are_explained(old, today):
    with pytest.raises(ConfigError) as error:
        parse(old)
    assert str(error.value) == f"{old} is written {today} now"


@pytest.mark.parametrize("text", ["scripted:a=1,b", "scripted:a=", "scripted:a=1,a=2", "scripted:a=1,", "runs/scripted,b"])
def test_bad_options(text):
    with pytest.raises(ConfigError, match=r"scripted.*is not an option|scripted.*given twice"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty policy reference"),
        ("zero:1", "zero:1: zero has no options"),
        ("zoo/tabletp", "unknown model of the zoo 'zoo/tabletp': did you mean zoo/tabletop"),
        ("scriptd:noise=1", "unknown policy 'scriptd': did you mean scripted?"),
        ("randm", "unknown policy 'randm': did you mean random?"),
        ("runs/none", "runs/none: does not exist: expected a run, a checkpoint or a policy folder, or a name"),
    ],
)
def test_references_to_nothing(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        trained_path(text)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_similar_run_is_suggested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/reach-1").mkdir(parents=True)
    Path("runs/reach-1/config.yaml").write_text("")
    with pytest.raises(ConfigError, match="unknown teacher 'runs/reach-2': did you mean runs/reach-1"):
        trained_path("runs/reach-2", "teacher")


def test_roles(tmp_path):
    assert teacher_of("scripted:noisy") == "scripted:noisy"
    assert teacher_of("zero") is teacher_of("runs/x") is teacher_of(None) is None
    assert required_path(tmp_path) == tmp_path
    for ref in ("zero", "scripted:noisy"):
        with pytest.raises(ConfigError, match=f"base {ref}: not a trained policy"):
            required_path(ref, "base")
    with pytest.raises(ConfigError, match="no options apply here: leave out samples"):
        required_path(f"{tmp_path},samples=3")
    with pytest.raises(ConfigError, match="zero ignores observations and cannot be a teacher"):
        registry.make("zero", None)


def test_an_exported_folder_is_no_teacher(tmp_path):
    assert EXPORTED == runtime.SPEC
    (tmp_path / EXPORTED).write_text("{}")
    with pytest.raises(ConfigError, match="a folder of `rpd export`, which can only act: name the run"):
        registry.make(tmp_path, None)
