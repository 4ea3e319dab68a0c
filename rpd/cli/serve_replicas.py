"""`rpd serve --replicas`: start several policy servers. Without torch, so that this process stays small."""

from __future__ import annotations

from rpd.config.serve import ServeConfig
from rpd.serve.access import check_access
from rpd.serve.replicas import Replicas, check_ports, devices


def main(options: ServeConfig) -> int:
    """Serve with several processes until SIGINT or SIGTERM; returns the exit code."""
    check_access(options)
    check_ports(options.host, options.port, options.replicas)
    chosen = devices(options.device, options.replicas)
    commands = [
        _command(options.model_copy(update={"replicas": 1, "device": device, "port": options.port and options.port + i}))
        for i, device in enumerate(chosen)
    ]
    return Replicas(commands).run()


def _command(options: ServeConfig) -> list[str]:
    """Command line of these options, after ``rpd``."""
    words = ["serve", options.policy]
    for name, value in options.model_dump(mode="json", exclude_defaults=True, exclude={"policy"}).items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return words
