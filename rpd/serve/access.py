"""Access to a server: the token of its clients, and limits that fit each other."""

from __future__ import annotations

from rpd.config.serve import ServeConfig
from rpd.envs.errors import ConfigError
from rpd.serve.peer import is_loopback
from rpd.teachers.transport import TOKEN_VARIABLE
from rpd.teachers.transport.client import read_token


def check_access(options: ServeConfig) -> str | None:
    """Check the options of access, and return the token that clients must send; None: none is needed.

    Raises:
        ConfigError: an unreadable token, no token on an address that other machines reach, or contradictory limits.
    """
    token = read_token(options.token_file)
    if token is None and not is_loopback(options.host):
        raise ConfigError(
            f"--host {options.host}: others than this machine could use the policy: "
            f"add --token-file FILE or set {TOKEN_VARIABLE}, e.g. to what `openssl rand -hex 32` prints"
        )
    total = options.max_total_rows
    if total is not None and total < options.max_rows:
        raise ConfigError(f"--max-total-rows {total} is less than one client may have: --max-rows {options.max_rows}")
    return token
