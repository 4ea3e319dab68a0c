"""Device, seeds, files, signals, memory and statistics: utilities without robot or learning concepts."""
