"""How policies are asked over a network: messages, memory shared with the server, and the client. Without torch."""
