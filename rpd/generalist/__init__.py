"""`rpd distill`: the specialists of several robots become one policy."""
