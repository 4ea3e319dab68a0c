"""Losses, returns and updates: pure functions of tensors, and the classes that hold their state."""
