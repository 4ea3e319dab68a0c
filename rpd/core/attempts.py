"""Agreement of the ranks on the current attempt: after a restart, the store of torchrun keeps what earlier attempts wrote."""

from __future__ import annotations

import secrets
import time
from datetime import timedelta

from torch.distributed import PrefixStore, Store

POLL_S = 0.05


def fresh_part(store: Store, rank: int, size: int, timeout: timedelta) -> Store:
    """Return a part of a store that no earlier attempt has written to, the same on all ranks.

    Without it, a rank may read the address of a process of an earlier attempt. The count of restarts does not identify the
    attempt: on several machines, only the one whose rank has failed counts it.

    Args:
        store: store of all attempts.
        rank: index of this process.
        size: number of processes.
        timeout: longest wait for the others.

    Raises:
        RuntimeError: the others did not come.
    """
    own, deadline = secrets.token_hex(8), time.monotonic() + timeout.total_seconds()
    if rank == 0:
        store.set("rpd/first", own)
        answers = [f"rpd/{own}/{other}" for other in range(1, size)]
        store.wait(answers, timeout)
        store.set(f"rpd/{own}/ready", ",".join(store.get(answer).decode() for answer in answers))
        return PrefixStore(own, store)
    while time.monotonic() < deadline:
        first = store.get("rpd/first").decode()  # perhaps of an earlier attempt: then `ready` lists an earlier process
        store.set(f"rpd/{first}/{rank}", own)
        if store.check([ready := f"rpd/{first}/ready"]) and own in store.get(ready).decode().split(","):
            return PrefixStore(first, store)
        time.sleep(POLL_S)
    raise RuntimeError(f"rank 0 did not answer in {timeout.total_seconds():.0f} s")
