"""Choice of the first variant of a divergence or a gate whose fields a teacher provides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from rpd.envs.errors import ConfigError


class Variant(Protocol):
    """A divergence or a gate: one of several variants that read different fields of a teacher."""

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `TeacherOutput` that it reads."""


VariantT = TypeVar("VariantT", bound=Variant)


def first_supported(
    kind: str, name: str, variants: Mapping[str, Sequence[VariantT]], teacher: str, output_fields: frozenset[str]
) -> VariantT:
    """Return the first variant of `name` whose fields the teacher provides.

    Raises:
        ConfigError: none; names the missing fields, the provided ones, and what would work.
    """
    served = {other for other, all_ in variants.items() if any(variant.needs <= output_fields for variant in all_)}
    if name not in served:
        missing = " or ".join(" and ".join(sorted(variant.needs - output_fields)) for variant in variants[name])
        raise ConfigError(
            f"{kind} {name} needs the teacher's {missing}, but teacher {teacher} provides only "
            f"{', '.join(sorted(output_fields))}; use {' or '.join(sorted(served)) or 'another teacher'}"
        )
    return next(variant for variant in variants[name] if variant.needs <= output_fields)
