"""Attempts of torchrun that share one store."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from rpd.core.attempts import fresh_part

TIMEOUT = timedelta(seconds=60)


def test_ranks_of_a_restart_do_not_read_what_earlier_ones_wrote():
    store, reading = HashStore(), threading.Event()

    def late():
        reading.wait()
        time.sleep(0.2)  # rank 1 reads the earlier attempt first
        return fresh_part(store, 0, 3, TIMEOUT)

    def early(rank):
        reading.set()
        return fresh_part(store, rank, 3, TIMEOUT)

    for attempt in range(3):
        reading.clear()
        with ThreadPoolExecutor(3) as pool:
            parts = [part.result() for part in (pool.submit(late), pool.submit(early, 1), pool.submit(early, 2))]
        assert not parts[1].check(["address"])
        parts[0].set("address", str(attempt))
        assert {part.get("address") for part in parts} == {str(attempt).encode()}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_does_not_wait_forever(rank):
    store = HashStore()
    store.set("rpd/first", "earlier")
    with pytest.raises(RuntimeError):
        fresh_part(store, rank, 2, timedelta(seconds=0.2))
