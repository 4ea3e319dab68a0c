"""Libraries of this process that could not be closed, such as a robot's SDK that blocks."""

UNCLOSED: list[object] = []
"""They are kept: a destructor may wait for threads with Python's global lock held, and unloading them at the end of the process
may crash or hang."""
