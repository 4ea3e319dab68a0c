"""Demonstrations: recorded while a policy acts, kept in ManiSkill's layout, read back for training, given to LeRobot."""
