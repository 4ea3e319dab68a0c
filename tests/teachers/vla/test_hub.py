"""Checkpoints on the hub: its list of files is asked before anything is downloaded; folders of a repository."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rpd.envs.errors import ConfigError
from rpd.teachers.extra_weights import check_openvla
from rpd.teachers.vla.hub import fetch, files_in, subfolders_hint

pytest.importorskip("huggingface_hub")
OFT = ["config.json", "model-00001-of-00003.safetensors", "action_head--150000_checkpoint.pt"]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """hub(files): a hub with one repository, org/model; records what is downloaded."""
    downloads = []

    def snapshot(model, revision, allow_patterns, ignore_patterns):
        if model != "org/model":
            raise OSError("no such repository")
        downloads.append(SimpleNamespace(revision=revision, wanted=allow_patterns, skipped=ignore_patterns))
        return str(tmp_path)

    def make(files, reachable=True):
        def info(self, model, revision=None, timeout=None):
            if not reachable:
                raise RuntimeError("an error of the HTTP library")
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])

        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(b"")
        monkeypatch.setattr("huggingface_hub.HfApi.repo_info", info)
        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
        return downloads

    return make


def check(files):
    check_openvla(files, "x")


def test_list_of_files_is_asked_before_anything_is_downloaded(hub):
    """What would say so, a .pt file, is not among the files that are downloaded."""
    downloads = hub(OFT)
    with pytest.raises(ConfigError, match=r"x: action_head--150000_checkpoint.pt: OpenVLA-OFT"):
        fetch("org/model", "an OpenVLA checkpoint", ["*.json"], check)
    assert downloads == []


def test_without_the_hub_the_cache_is_looked_through(hub):
    hub(["config.json", "lora_adapter/adapter_config.json"], reachable=False)
    with pytest.raises(ConfigError, match=r"lora_adapter/adapter_config.json: OpenVLA-OFT"):
        fetch("hf://org/model", "an OpenVLA checkpoint", ["*.json"], check)


@pytest.mark.parametrize("folder", ["step-100", "runs/step,100"])
def test_folder_of_a_repository(hub, tmp_path, folder):
    downloads = hub([f"{folder}/config.json", "action_head--1_checkpoint.pt"])
    assert fetch(f"hf://org/model/{folder}@v1", "x", ["*.json"], check, skip=("*/*.safetensors",)) == tmp_path / folder
    (asked,) = downloads
    assert (asked.revision, asked.wanted, asked.skipped) == ("v1", [f"{folder}/*.json"], [f"{folder}/*/*.safetensors"])
    with pytest.raises(ConfigError, match=r"hf://org/model/other: org/model has no folder 'other'"):
        fetch("hf://org/model/other", "x", ["*.json"])


@pytest.mark.parametrize("file", ["model.safetensors", "dataset_statistics.json", "action_mapping.yaml"])
def test_link_to_nothing_is_not_a_missing_file(hub, tmp_path, file):
    """Else older shards, the statistics of config.json, or no action mapping would count in its place."""
    hub(["config.json"])
    (tmp_path / file).symlink_to("../blobs/gone")
    for name in (str(tmp_path), "org/model"):
        with pytest.raises(ConfigError, match=rf"^{name}: {file} is a link to ../blobs/gone, which does not exist"):
            fetch(name, "x", ["*.json"])


def test_folder_in_place_of_a_file(hub, tmp_path):
    """As docker leaves one where a file to be mounted did not exist."""
    hub(["config.json"])
    (tmp_path / "dataset_statistics.json").mkdir()
    with pytest.raises(ConfigError, match=r"dataset_statistics.json is a folder, and a file is expected"):
        fetch("org/model", "x", ["*.json"])


@pytest.mark.parametrize("name", ["hf://org/model/../other", "hf://org/..", "hf://org/model//x", "org/model/folder"])
def test_names_that_are_none(hub, name):
    hub([])
    with pytest.raises(ConfigError, match="does not exist: expected a folder with x, or hf://organisation/model"):
        fetch(name, "x", [])


def test_folders_inside_are_named(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "config.json").touch()
    assert subfolders_hint(tmp_path, str(tmp_path), "config.json") == f"; there is one in {tmp_path}/a"
    assert subfolders_hint(tmp_path, "org/model@v1", "config.json") == "; there is one in hf://org/model/a@v1"
    assert subfolders_hint(tmp_path / "a", "x", "config.json") == ""
    assert files_in(tmp_path) == ["a/config.json"]
