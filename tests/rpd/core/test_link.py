"""Links between processes."""

import socket
import time

from rpd.core.link import Link


def test_quiet_link_outlives_a_default_timeout_that_a_library_has_set():
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.05)  # as xarm-python-sdk does
    try:
        ends = [Link(end, "other") for end in socket.socketpair()]
    finally:
        socket.setdefaulttimeout(before)
    time.sleep(0.2)
    ends[0].send({"n": 1})
    assert ends[1].take(time.monotonic() + 30) == [{"n": 1}]
    for end in ends:
        end.close()
