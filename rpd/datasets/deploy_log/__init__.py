"""Deployment recordings: crash-safe writing of their frames, and reading."""
