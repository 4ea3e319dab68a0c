"""Operators, who take over from the policy during a deployment: persons at an input device, and a scripted one."""
