"""`rpd bench`: how fast environments, training, teachers and policy servers are on this machine."""
