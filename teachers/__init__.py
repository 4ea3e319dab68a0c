"""Frozen policies that label observations with a distribution over actions."""
