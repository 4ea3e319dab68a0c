"""`rpd serve`: a policy behind a websocket, for clients of ours and of openpi's. The protocol is in docs/serving.md."""
