"""A policy on a robot: a fixed-rate loop, a safety layer, drivers, and a record of every tick."""
