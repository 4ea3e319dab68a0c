"""The networks that are trained: encoders and actor-critics, saved and loaded without pickle."""
