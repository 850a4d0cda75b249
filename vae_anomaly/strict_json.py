"""Strict conversion of JSON values to frozen dataclasses: no unknown key, and every value of its field's type.

Only types are checked. Whether a number is plausible (rows, levels, widths) is checked where it is used.
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
    """Return an instance of the dataclass ``kind`` from ``values``: the inverse of ``dataclasses.asdict``, also after JSON.

    Lists become tuples. Raises ValueError: one line with the first field that is missing, unknown or of another type.

    >>> from vae_anomaly.schema.inference import Dropped
    >>> parsed(Dropped, {"name": "id", "reason": "excluded"})
    Dropped(name='id', reason='excluded', time=False)
    """
    from pydantic import ValidationError

    try:
        instance: Value = _adapter(cast("Any", kind)).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or kind.__name__
        raise ValueError(f"{where}: {problem['msg'].lower()}") from error
    _refuse_unknown(instance, values, kind.__name__)
    return instance


def _refuse_unknown(instance: Any, values: Any, where: str) -> None:
    """Raise ValueError if ``values`` has a key that is not a field, at any depth. pydantic ignores such keys in dataclasses."""
    if is_dataclass(instance) and isinstance(values, Mapping):
        known = [field.name for field in fields(instance)]
        unknown = [key for key in values if key not in known]
        if unknown:
            raise ValueError(f"{where}: unknown field {unknown[0]!r}")
        for name in values:
            _refuse_unknown(getattr(instance, name), values[name], name)
    elif isinstance(instance, tuple):
        for item, value in zip(instance, cast("list[Any]", values), strict=True):
            _refuse_unknown(item, value, where)
