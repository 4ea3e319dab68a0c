"""Load a policy by name and run it: students, teachers, exports and the zero/random baselines."""
