"""Shared blocks: only ours, only within their bounds, and nothing left behind."""

import os
import secrets

import msgpack
import numpy as np
import pytest

from rpd.teachers.transport import shared_memory
from rpd.teachers.transport.codec import MalformedMessage, decode, encode

pytestmark = pytest.mark.skipif(not shared_memory.available(), reason="needs /dev/shm")


@pytest.fixture
def pair():
    own = shared_memory.OwnBlock(2**18)
    peer = shared_memory.PeerBlock(own.name, own.size)
    own.unlink()
    yield own, peer
    own.close()
    peer.close()


def test_request_and_reply(pair):
    own, peer = pair
    image, state = np.random.default_rng(0).integers(0, 256, (2, 100, 100, 3), np.uint8), np.float32([1, 2])
    sent = encode({"image": image, "state": state}, own)
    assert len(sent) < 500
    question = decode(sent, peer)
    assert (question["image"] == image).all() and (question["state"] == state).all()
    answer = encode({"a": image[::-1], "too large": np.zeros((3, 100, 1000), np.uint8)}, peer)
    assert 300_000 < len(answer) < 301_000  # what finds no room is sent
    back = decode(answer, own)
    assert (back["a"] == image[::-1]).all()
    assert (question["image"] == image).all()
    own.used = 0
    assert encode({"image": 0 * image}, own) and (question["image"] == image).all()  # copies: what was seen does not change


@pytest.mark.parametrize(
    ("offset", "size"), [(-64, 64), (2**18 - 63, 64), (2**40, 64), (0, 2**19), (True, 4), ("0", 4), (None, 4)]
)
def test_outside_of_the_block(pair, offset, size):
    fields = {b"__ndarray__": True, b"offset": offset, b"dtype": "|u1", b"shape": [size]}
    with pytest.raises(MalformedMessage, match="outside of the shared memory"):
        decode(msgpack.packb({"x": fields}), pair[1])


def test_arrays_do_not_overlap(pair):
    """Else a small message could ask for any amount of memory."""
    fields = {b"__ndarray__": True, b"offset": 0, b"dtype": "|u1", b"shape": [2**17]}
    with pytest.raises(MalformedMessage, match="over another one"):
        decode(msgpack.packb({"x": fields, "y": fields}), pair[1])


def test_truncated_block_is_no_bus_error():
    own = shared_memory.OwnBlock(2**18)
    peer = shared_memory.PeerBlock(own.name, own.size)
    sent = encode({"x": np.ones(2**17, np.uint8)}, own)
    os.truncate(shared_memory.FOLDER / own.name, 4096)
    own.unlink()
    with pytest.raises(MalformedMessage):
        decode(sent, peer)
    own.close()
    peer.close()


@pytest.mark.parametrize("name", ["", "x", "../../etc/passwd", "rpd-" + "g" * 32, "rpd-" + "0" * 32 + "\n", "psm_12345678"])
def test_other_names(name):
    with pytest.raises(ValueError, match="a block's name"):
        shared_memory.PeerBlock(name, 64)


def test_other_files(tmp_path):
    path = shared_memory.FOLDER / f"rpd-{secrets.token_hex(16)}"
    with pytest.raises(ValueError, match="cannot be opened"):
        shared_memory.PeerBlock(path.name, 64)
    try:
        os.mkfifo(path)
        with pytest.raises(ValueError, match="does not have 64 bytes"):
            shared_memory.PeerBlock(path.name, 64)
        path.unlink()
        (tmp_path / "secret").write_bytes(b"x" * 100)
        path.symlink_to(tmp_path / "secret")
        with pytest.raises(ValueError, match="cannot be opened"):
            shared_memory.PeerBlock(path.name, 64)
        path.unlink()
        path.write_bytes(b"x" * 63)
        with pytest.raises(ValueError, match="does not have 64 bytes"):
            shared_memory.PeerBlock(path.name, 64)
    finally:
        path.unlink()


def test_no_memory_left(monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = set(os.listdir(shared_memory.FOLDER))
    with pytest.raises(OSError, match="No space"):
        shared_memory.OwnBlock(2**18)
    assert set(os.listdir(shared_memory.FOLDER)) == before
