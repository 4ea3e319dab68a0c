"""Bad input that all ranks find by themselves, e.g. an unknown task: rank 0 alone reports it."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing torch takes seconds
    from torch.distributed import Store

WAIT_S = 30.0
"""Longest wait for another rank to fail alike: it may still import."""
AGENT_S = 1.0
"""Longest wait of rank 0 if torchrun holds the store, because torchrun ends the other ranks as soon as rank 0 has ended."""
POLL_S = 0.05
REPORT, FIRST = "rpd/report", "rpd/first"
"""Keys of the store: the text that rank 0 has reported; and the one that rank 0 sets when it joins the run."""
UNREACHABLE = (RuntimeError, ValueError, KeyError)
"""Errors of torch's stores, and of missing variables of torchrun."""
_joined: Store | None = None  # the store of the run that this process has joined
_shared = False  # whether the others know the error already


def note_joined(store: Store) -> None:
    """Note the store of a run that the ranks have joined: from now on, rank 0 may still fail like this one."""
    global _joined
    _joined = store


def note_shared() -> None:
    """Note that the other ranks have exchanged the error, and leave its report to rank 0."""
    global _shared
    _shared = True


def publish(text: str, size: int, bad_input: bool) -> None:
    """Share what rank 0 has reported with the other ranks, and wait until they have read it.

    Args:
        text: the report.
        size: number of ranks.
        bad_input: whether the others may fail alike. Of other errors they learn by the end of this process, unless torchrun
            would end them before they report their own.
    """
    agent = _agent_store()
    if _shared or not (bad_input or agent):
        return
    try:
        store, deadline = _joined or _connected(0), time.monotonic() + (AGENT_S if agent else WAIT_S)
        store.set(REPORT, text)
        while not store.check([_read_by(rank) for rank in range(1, size)]) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    except UNREACHABLE:  # the others report, too
        return


def is_published(text: str, rank: int) -> bool:
    """Return whether rank 0 has reported the same text, so that this rank need not."""
    deadline = time.monotonic() + WAIT_S
    try:
        store = _joined or _connected(rank)
        while not store.check([REPORT]):
            if time.monotonic() > deadline or (_joined is None and store.check([FIRST])):
                return False
            time.sleep(POLL_S)
        same = store.get(REPORT).decode() == text
        store.set(_read_by(rank), "")
        return same
    except UNREACHABLE:
        return False


def _connected(rank: int) -> Store:
    """Store of the run: torchrun's, or the one that rank 0 holds."""
    from torch.distributed import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    holds, wait = rank == 0 and not _agent_store(), timedelta(seconds=WAIT_S)
    return TCPStore(address, port, is_master=holds, timeout=wait, wait_for_workers=False, multi_tenant=True)


def _agent_store() -> bool:
    """Whether torchrun holds the store, which outlives the ranks."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _read_by(rank: int) -> str:
    return f"{REPORT}/{rank}"
