"""Adapters that use other policies as teachers: students, diffusion policies, stable-baselines3, policy servers."""
