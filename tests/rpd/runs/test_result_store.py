"""Copies of results: in memory, in a folder, on servers of FTP (passwords, torn uploads) and of S3."""

import json
import sys
import threading

import fsspec
import pytest

from rpd.envs.errors import ConfigError, RunFault
from rpd.runs import result_store
from rpd.runs.result_store import MANIFEST, ResultStore, result_files

COPIED = ["config.yaml", "eval/last/eval.json", "policy/model.safetensors", "report.html"]


@pytest.fixture
def run(tmp_path):
    """A run's folder with two checkpoints."""
    folder = tmp_path / "runs" / "x"
    for name in ("config.yaml", "report.html", "eval/last/eval.json", ".lock", ".shards.lock", "logs/x.log", "logs.lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for step in (32, 128):
        (folder / f"checkpoints/{step:09}/policy").mkdir(parents=True)
        (folder / f"checkpoints/{step:09}/policy/model.safetensors").write_text(str(step))
        (folder / f"checkpoints/{step:09}/manifest.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def ftp(tmp_path_factory):
    """Address of an FTP server, and its folder."""
    authorizers = pytest.importorskip("pyftpdlib.authorizers")
    from pyftpdlib.handlers import FTPHandler
    from pyftpdlib.servers import FTPServer

    folder, authorizer = tmp_path_factory.mktemp("ftp"), authorizers.DummyAuthorizer()
    authorizer.add_user("me", "secret", str(folder), perm="elradfmw")
    authorizer.add_anonymous(str(folder))
    handler = type("Handler", (FTPHandler,), {"authorizer": authorizer})
    server = FTPServer(("127.0.0.1", 0), handler)
    ended = threading.Event()

    def serve():
        while not ended.is_set():
            server.serve_forever(timeout=0.05, blocking=False)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"me:secret@127.0.0.1:{server.address[1]}", folder
    ended.set()
    thread.join(30)
    server.close_all()


@pytest.fixture(scope="module")
def s3():
    """Name of a bucket on moto's server, which speaks S3."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        settings = {
            "ENDPOINT_URL": address,
            "ACCESS_KEY_ID": "me",
            "SECRET_ACCESS_KEY": "secret",
            "DEFAULT_REGION": "us-east-1",
        }
        for name, value in settings.items():
            patch.setenv(f"AWS_{name}", value)
        fsspec.filesystem("s3").mkdir("bucket")
        yield "bucket"
    server.stop()


@pytest.fixture(params=["memory", "file", "ftp", "s3"])
def url(request, tmp_path):
    if request.param == "ftp":
        return f"ftp://{request.getfixturevalue('ftp')[0]}/{tmp_path.name}"
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('s3')}/{tmp_path.name}"
    return f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/store/results"


def stored(url, name):
    """Contents of the copied files, and the manifest."""
    files, root = fsspec.core.url_to_fs(url)
    found = {path.partition(f"/{name}/")[2]: files.cat_file(path).decode() for path in files.find(f"{root}/{name}")}
    return found, json.loads(found.pop(MANIFEST))


def test_the_results_are_copied_and_nothing_else(run, url):
    assert ResultStore(url).put(run, "x") == 4
    files, manifest = stored(url, "x")
    assert sorted(files) == sorted(manifest["files"]) == COPIED and manifest["complete"]
    assert files["policy/model.safetensors"] == "128" and files["report.html"] == "report.html"
    assert [str(target) for target, _ in result_files(run)] == sorted(COPIED, key=lambda name: name.startswith("policy"))


def test_what_is_there_is_not_copied_again(run, url):
    assert ResultStore(url).copied(run, "x").endswith("/x")
    assert ResultStore(url).copied(run, "x").endswith("/x, which is complete")
    (run / "report.html").write_text("of a longer training")
    assert ResultStore(url).put(run, "x") == 1
    assert stored(url, "x")[0]["report.html"] == "of a longer training"


def test_an_interrupted_copy_is_not_complete_and_is_continued(run, url, monkeypatch):
    store = ResultStore(url)
    put, sent = store._files.put_file, []

    def put_file(source, target):
        if not target.endswith(MANIFEST):
            sent.append(target)
        if len(sent) == 3:  # torn: a part of the file arrives
            torn = run.parent / "torn"
            torn.write_text("tor")
            put(str(torn), target)
            raise ConnectionError("connection lost")
        put(source, target)

    monkeypatch.setattr(store._files, "put_file", put_file)
    with pytest.raises(RunFault, match=r"x is not copied to .*/x: connection lost: the same command continues"):
        store.put(run, "x")
    monkeypatch.undo()
    _, manifest = stored(url, "x")
    assert not manifest["complete"] and len(manifest["files"]) == 2
    assert ResultStore(url).put(run, "x") == 2
    files, manifest = stored(url, "x")
    assert manifest["complete"] and sorted(files) == COPIED and "tor" not in files.values()


def test_a_damaged_manifest_counts_as_none(run, tmp_path):
    url = f"file://{tmp_path}/store"
    ResultStore(url).put(run, "x")
    (tmp_path / "store/x" / MANIFEST).write_text('{"complete": tr')
    assert ResultStore(url).put(run, "x") == 4


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("runs/copies", "--results runs/copies: expected an address such as s3://bucket/results or file:///mnt/results"),
        ("foo://x", "--results foo://x: cannot be written: Protocol not known: foo"),
        ("file:///proc/x", "--results file:///proc/x: cannot be written: "),
        ("ftp://me:secret@127.0.0.1:1/x", "--results ftp://127.0.0.1:1/x: cannot be written: [Errno 111] Connection refused"),
    ],
)
def test_refused_before_anything_starts(url, message):
    with pytest.raises(ConfigError) as error:
        ResultStore(url)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ConfigError, match=r"--results gs://bucket/x: .* gcsfs to access Google .*\(a Python package, with pip"):
        ResultStore("gs://bucket/x")


def test_a_store_that_may_only_be_read_is_refused(ftp, tmp_path):
    with pytest.raises(ConfigError, match=r"--results ftp://127\.0\.0\.1:\d+/\S*: cannot be written: 550"):
        ResultStore(f"ftp://{ftp[0].partition('@')[2]}/{tmp_path.name}")


def test_an_option_that_is_not_given_opens_nothing():
    assert result_store.open_store(None) is None
