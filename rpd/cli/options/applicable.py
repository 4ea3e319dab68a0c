"""Options without those that do not apply to a run, for its help."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
from pydantic import BaseModel, create_model

Options = TypeVar("Options", bound=BaseModel)


def without(model: type[Options], hidden: Collection[str], note: str | None = None) -> type[Options]:
    """Build a subclass of a model of options whose help omits some of them.

    Args:
        model: one option per field; a field that is a model is a group.
        hidden: dotted names of options and groups, e.g. ``{"bc", "env.cameras"}``; names that the model lacks are ignored.
        note: text added to the description; None: the description of the model.
    """
    hints = get_type_hints(model, include_extras=True)
    fields: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        inside = {other.removeprefix(f"{name}.") for other in hidden if other.startswith(f"{name}.")}
        if name in hidden:
            fields[name] = (Annotated[hints[name], tyro.conf.Suppress], copy.copy(info))
        elif inside:
            group = without(hints[name], inside)
            fields[name] = (group, copy.copy(info))
            fields[name][1].default_factory = group
    doc = "\n\n".join(text for text in (model.__doc__, note) if text)
    return create_model(model.__name__, __base__=model, __module__=model.__module__, __doc__=doc, **fields)
