"""`rpd serve`: websocket server of a policy, for our own and openpi's clients. Protocol: docs/serving.md."""
