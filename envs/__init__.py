"""Environments: the vector-environment interface, the task registry, and one package per simulator."""
