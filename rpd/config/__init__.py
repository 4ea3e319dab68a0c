"""Typed configurations, the YAML layers and the command-line parser that fill them."""
