"""Inverse kinematics and end-effector control, shared by simulation and deployment."""
