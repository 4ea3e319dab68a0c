"""`rpd bench`: speed of environments, training, teachers and policy servers on this machine."""
