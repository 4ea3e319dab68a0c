"""Options of each verb; importable without torch, so that help and errors appear at once."""
