"""Launchers: where the processes of a sweep or of a sharded evaluation run, on this machine, on Ray or on SLURM."""
