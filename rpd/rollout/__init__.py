"""Collect rollout batches; the teacher labels each observation once."""
