"""Diffusion policies learn from demonstrations (`rpd train --mode bc --student diffusion`)."""
