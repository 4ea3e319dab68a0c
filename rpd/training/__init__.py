"""Training runs: on-policy RL with distillation, behavior cloning, generalists, VLA fine-tuning, sweeps."""
