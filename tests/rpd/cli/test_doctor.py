"""Each check in a machine that lacks something: the status, and a fix in one line."""

import io
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from rpd.cli import doctor
from rpd.cli.doctor import Check
from rpd.envs.rendering.vulkan import VulkanDevice

LAVAPIPE = VulkanDevice("llvmpipe (LLVM 19.1.7, 256 bits)", "Mesa 25.0.7-2 (LLVM 19.1.7)", 0x10005, True)
OLD = VulkanDevice("llvmpipe (LLVM 15.0.6, 256 bits)", "Mesa 22.3.6 (LLVM 15.0.6)", 0x10005, True)
GPU = VulkanDevice("NVIDIA H200", "570.86.15", 0x10DE, False)


@pytest.fixture
def versions(monkeypatch):
    """Pretend that exactly these packages are installed."""

    def pretend(**installed):
        def version(name):
            if name.replace("-", "_") not in installed:
                raise metadata.PackageNotFoundError(name)
            return installed[name.replace("-", "_")]

        monkeypatch.setattr(metadata, "version", version)

    return pretend


def _vulkan(monkeypatch, *devices):
    monkeypatch.setattr("rpd.envs.rendering.vulkan.devices", lambda: list(devices))
    return doctor.vulkan_()


def test_this_machine_runs_the_core(tmp_path):
    checks = doctor.run(tmp_path / "runs")
    assert not [check for check in checks if check.status == "fail"]
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    for check in checks:
        assert "\n" not in check.fix and (check.status == "ok") == (check.fix == "")
    assert not (tmp_path / "runs").exists()  # looking leaves nothing behind


def test_exit_code_is_for_the_core_only(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "run", lambda: [Check("a", "ok", "x"), Check("b", "warn", "y", "mend b")])
    assert doctor.main() == 0
    assert "mend b" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "run", lambda: [Check("c", "fail", "z", "mend c")])
    assert doctor.main() == 1


def test_fixes_are_printed_whole_and_literally():
    fix = "pip install -e '.[maniskill]' && " + "x" * 200
    out = io.StringIO()
    doctor.render([Check("extra", "warn", "[none]", fix)], Console(file=out, width=60))
    assert fix in out.getvalue() and "[none]" in out.getvalue()


def test_vulkan_names_the_driver(monkeypatch):
    check = _vulkan(monkeypatch, LAVAPIPE)
    assert check.status == "ok" and "software" in check.found and "25.0.7" in check.found
    check = _vulkan(monkeypatch, GPU, OLD)
    assert check.status == "ok" and "hardware: NVIDIA H200" in check.found


def test_old_or_missing_vulkan_has_a_fix(monkeypatch):
    check = _vulkan(monkeypatch, OLD)
    assert check.status == "warn" and "22.3.6" in check.found and "bookworm-backports" in check.fix
    monkeypatch.delenv("VK_ICD_FILENAMES", raising=False)
    assert "mesa-vulkan-drivers" in _vulkan(monkeypatch).fix
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nowhere/icd.json")
    check = _vulkan(monkeypatch)
    assert "/nowhere/icd.json" in check.found and check.fix.startswith("unset VK_ICD_FILENAMES")


def test_missing_extras_name_pip(versions):
    versions(mani_skill="3.0.1")
    found = {check.name: check for check in doctor.extras()}
    assert found["extra maniskill"].status == "ok"
    assert found["extra sb3"].fix == "pip install -e '.[sb3]' # in a clone of rpd"


def test_torchvision_build_must_match_torch(versions):
    versions(torch="2.13.0+cpu", torchvision="0.28.0")
    assert doctor.torchvision().fix == "pip uninstall -y torchvision"
    versions(torch="2.13.0+cpu", torchvision="0.28.0+cpu")
    assert doctor.torchvision().status == "ok"
    versions(torch="2.13.0")
    assert doctor.torchvision().status == "ok"


def test_broken_core_fails(monkeypatch):
    def broken(name):
        raise ImportError(f"cannot load {name}")

    monkeypatch.setattr(doctor, "import_module", broken)
    for check in (doctor.torch_(), doctor.mujoco()):
        assert check.status == "fail" and "cannot load" in check.found and check.fix.startswith("pip install")
    assert doctor.ffmpeg().status == "warn"  # without it there are no videos, but training works


def test_old_python_fails(monkeypatch):
    monkeypatch.setattr("platform.python_version", lambda: "3.9.18")
    assert doctor.python().status == "fail"


def test_full_disk_and_read_only_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1e9})())
    check = doctor.disk(tmp_path / "runs")
    assert check.status == "warn" and "1.0 GB" in check.found and check.fix

    def refuse(**kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    check = doctor.writable(Path("runs"))
    assert check.status == "fail" and "Permission denied" in check.found and check.fix.startswith("chmod")


def test_another_distribution_of_libero_counts(versions):
    versions(hf_libero="0.1.4")
    found = {check.name: check for check in doctor.extras()}["extra libero"]
    assert (found.status, found.found) == ("ok", "hf-libero 0.1.4")
