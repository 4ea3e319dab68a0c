"""Options of the launchers: each bad one is a line, and nothing has started."""

import socket
import sys
import threading

import pytest

from rpd.cli.main import main
from rpd.launch import ray_launcher

SHARDS = ["eval", "zero", "--suite", "tabletop", "--shards", "2", "--out", "out"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def refused(capsys, *words):
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and not captured.out
    return captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--launcher-address", "auto"], "--launcher-address auto: add --launcher ray"),
        (["--slurm.partition", "x"], "--slurm.*: add --launcher slurm"),
        (["--retries", "1"], "--retries 1: add --launcher ray or --launcher slurm"),
        (["--cpus-per-run", "9999"], "--cpus-per-run 9999: this machine has"),
        (["--gpus-per-run", "99"], "--gpus-per-run 99: this machine has"),
        (["--launcher", "slurm"], "--launcher slurm needs sbatch on the PATH: run it on a login node"),
        (["--launcher", "slurm", "--slurm.executor", "local", "--gpus-per-run", "0.5"], "SLURM gives whole GPUs"),
        (["--launcher", "ray", "--launcher-address", ":1"], "--launcher-address :1: give auto, host:port, or ray://host:port"),
        (["--launcher", "ray", "--launcher-address", "h:x"], "--launcher-address h:x: give auto"),
        (["--shard", "1/2"], "--shards 2 starts every shard: leave out --shard 1/2"),
    ],
)
def test_refused_in_one_line(options, message, capsys, tmp_path):
    assert message in refused(capsys, *SHARDS, *options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shards", "2"], "--shards 2: shards are parts of a suite: add --suite"),
        (["--suite", "tabletop", "--launcher", "ray"], "--launcher: add --suite and --shards"),
        (["--suite", "tabletop", "--jobs", "2"], "--jobs: add --suite and --shards"),
    ],
)
def test_options_of_shards_without_shards(options, message, capsys):
    assert message in refused(capsys, "eval", "zero", *options)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_unreachable_ray_address(scheme, capsys):
    with socket.socket() as reserved:  # nothing listens
        reserved.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{reserved.getsockname()[1]}"
        said = refused(capsys, *SHARDS, "--launcher", "ray", "--launcher-address", address)
    assert f"no Ray cluster at --launcher-address {address}: Connection refused" in said


@pytest.mark.parametrize(("answer", "message"), [(b"HTTP/1.1 400 Bad Request", "another kind of server"), (b"", "timed out")])
def test_port_of_another_server(answer, message, capsys, monkeypatch):
    monkeypatch.setattr(ray_launcher, "CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        finished = threading.Event()

        def serve():
            with server.accept()[0] as connection:
                connection.sendall(answer)
                finished.wait(60)

        (serving := threading.Thread(target=serve)).start()
        said = refused(capsys, *SHARDS, "--launcher", "ray", "--launcher-address", address)
        finished.set()
        serving.join()
    assert f"no Ray cluster at --launcher-address {address}: {message}" in said


@pytest.mark.parametrize(("launcher", "package", "extra"), [("ray", "ray", "cluster"), ("slurm", "submitit", "slurm")])
def test_missing_extra(launcher, package, extra, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    said = refused(capsys, *SHARDS, "--launcher", launcher)
    assert f"--launcher {launcher} needs {package}, which is not installed: pip install -e '.[{extra}]'" in said
