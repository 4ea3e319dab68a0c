"""Identities (digests of the files) of policies, and of the teacher, base and initial policy of a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from rpd.config.schema import RunConfig
from rpd.envs.errors import ConfigError
from rpd.export import is_exported
from rpd.export.runtime import MANIFEST
from rpd.students.identity import combine, file_identity, short
from rpd.teachers import registry
from rpd.teachers.refs import parse, trained_path

LOG = logging.getLogger(__name__)
Identities = dict[str, str | None]
"""Identity by role or name; None: unknown, e.g. a policy behind a server."""


def identity(name: str) -> str | None:
    """Return the digest of a policy's files; two results with the same digest are results of the same policy.

    Args:
        name: policy reference.

    Returns:
        The digest, or None for a policy behind a server that does not report an identity.

    Raises:
        ConfigError: no such policy, or a damaged one.
    """
    if parse(name).is_baseline:
        return combine(name)
    path = trained_path(name)
    return file_identity(path / MANIFEST) if path is not None and is_exported(path) else registry.identity(name)


def check_unchanged(name: str, before: str | None) -> None:
    """Check that a policy's files did not change during the evaluation, e.g. because its run is still training.

    Args:
        name: policy reference.
        before: identity of the policy before it was loaded.

    Raises:
        ConfigError: the identity has changed.
    """
    if identity(name) != before:
        raise ConfigError(f"{name} changed during the evaluation: use one of its checkpoints, or a copy")


def sources(teacher: str | None = None, base: str | None = None, init: str | None = None) -> Identities:
    """Return the identities of a run's teacher, base and initial policy, by role; None arguments are left out."""
    found = {"teacher": teacher, "base": base, "init": init}
    return {role: identity(name) for role, name in found.items() if name is not None}


def begun_with(config: RunConfig, run_dir: Path, saved: Identities | None) -> Identities:
    """Return the identities of a run's sources at its start; on resume, check that the teacher is unchanged.

    Other sources need no check: checkpoints contain an internal base and the initial weights, and the policy stores the
    identity of an external base.

    Args:
        config: configuration of the run.
        run_dir: folder of the run, for messages.
        saved: identities stored in the checkpoint; None: a new run.

    Raises:
        ConfigError: the teacher has changed since the start.
    """
    if saved is None:
        return sources(config.teacher, config.base, config.pretrained_path)
    if config.teacher is not None:
        check_same(str(run_dir), {"teacher": config.teacher}, saved, sources(config.teacher))
    return saved


def check_same(what: str, names: Mapping[str, str], then: Mapping[str, str | None], now: Mapping[str, str | None]) -> None:
    """Check that policies and teachers have the same files as at the start of a run or recording.

    Args:
        what: the run or recording, e.g. a folder, for messages.
        names: references of policies and teachers, by role.
        then: identities at the start; missing roles are not checked.
        now: current identities.

    Raises:
        ConfigError: an identity differs; names the role, the policy and both digests.
    """
    for role, name in names.items():
        before, after = then.get(role), now.get(role)
        if before and after and before != after:
            raise ConfigError(
                f"{role} {name} has changed since {what} began (digest {short(before)}, now {short(after)}): restore its "
                "files, or choose another name"
            )
        if role in then and not (before and after):
            LOG.warning(f"{role} {name}: its server reports no identity: cannot check that it is unchanged since {what} began")
