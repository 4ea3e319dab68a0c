"""Demonstrations: record them with a policy, store them in ManiSkill's layout, read them for training, export to LeRobot."""
