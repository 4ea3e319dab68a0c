"""Commissioning of a robot: from its first connection to a first dry run, step by step."""
