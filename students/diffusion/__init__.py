"""Policies that denoise chunks of actions: Diffusion Policy (arXiv 2303.04137), and its flow-matching variant."""
