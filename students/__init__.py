"""Trained policies: encoders, actor-critics and diffusion policies, saved and loaded without pickle."""
