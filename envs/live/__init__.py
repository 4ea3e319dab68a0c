"""Simulated robots for deployment: the tabletop's own, and other simulators with the tabletop's tasks."""
