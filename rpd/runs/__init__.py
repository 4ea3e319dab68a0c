"""The run folder: create, lock, resume and read it; checkpoints, metrics and provenance inside it."""
