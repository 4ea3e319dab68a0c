"""Environments as seen by others: frame stacking, stable-baselines3."""
