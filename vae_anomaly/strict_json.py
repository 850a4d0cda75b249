"""Frozen dataclasses from plain JSON values, strictly: every key known, every value of the type that its field says.

Knows no particular dataclass. Numbers that a text may ask for (rows, levels, widths) are types here and sizes elsewhere.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, cast

Value = TypeVar("Value")


@cache
def _adapter(kind: type[Any]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def parsed(kind: type[Value], values: Any) -> Value:
    """Return the dataclass ``kind`` that ``dataclasses.asdict`` turned into ``values``, also after a trip through JSON.

    Lists become tuples. Raises ValueError, one line with the first field that is missing, unknown or of another type.

    >>> from vae_anomaly.schema.inference import Dropped
    >>> parsed(Dropped, {"name": "id", "reason": "excluded"})
    Dropped(name='id', reason='excluded')
    """
    from pydantic import ValidationError

    try:
        found: Value = _adapter(cast("Any", kind)).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or kind.__name__
        raise ValueError(f"{where}: {problem['msg'].lower()}") from error
    _refuse_unknown(found, values, kind.__name__)
    return found


def _refuse_unknown(found: Any, values: Any, where: str) -> None:
    """Raise ValueError where ``values`` has a key that no field has, at any depth."""
    if is_dataclass(found) and isinstance(values, Mapping):
        known = [field.name for field in fields(found)]
        unknown = [key for key in values if key not in known]
        if unknown:
            raise ValueError(f"{where}: {unknown[0]!r} is no field of it")
        for name in values:
            _refuse_unknown(getattr(found, name), values[name], name)
    elif isinstance(found, tuple):
        for one, value in zip(found, cast("list[Any]", values), strict=True):
            _refuse_unknown(one, value, where)
