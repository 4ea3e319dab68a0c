"""Frozen policies that answer "what would you do here?" with a distribution over actions."""
