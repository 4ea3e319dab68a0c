"""Backends that run environments: in this process, in worker processes, or on a GPU."""
