"""Deployment of a policy on a robot: fixed-rate control loop, safety layer, drivers, and a log of every tick."""
