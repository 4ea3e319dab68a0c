"""Connection to policy servers: messages, shared memory and the client. Without torch."""

TOKEN_VARIABLE = "RPD_SERVE_TOKEN"
"""Environment variable with the token of a policy server."""
TOKEN_SERVERS = "RPD_SERVE_TOKEN_FOR"
"""Environment variable with comma-separated addresses of servers that get the token even if only a policy names them."""
