"""The public interface is frozen: ``vae_anomaly.__all__`` and ``vae_anomaly.config``, with every signature, field and default.

``tests/public_names.txt`` holds it as text, first written at commit 46d20ef. To change it on purpose::

    python -m tests.test_public_names > tests/public_names.txt

then review the diff, and commit it together with a line in CHANGELOG.md. Types are compared by their last name, so that a class
may move to another module.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, get_origin

import vae_anomaly
from vae_anomaly import config

SNAPSHOT = Path(__file__).parent / "public_names.txt"


def described() -> str:
    """Return the public interface as text, sorted by name."""
    public = {name: getattr(vae_anomaly, name) for name in vae_anomaly.__all__}
    settings = {name: value for name, value in vars(config).items() if _is_defined_in(config, name, value)}
    lines = ["# vae_anomaly", "", *_of_names(public), "# vae_anomaly.config", "", *_of_names(settings)]
    return "\n".join(lines).rstrip() + "\n"


def _is_defined_in(module: ModuleType, name: str, value: Any) -> bool:
    """Say whether a public name is the module's own: a class or function defined there, a type alias or a constant."""
    if name.startswith("_") or isinstance(value, ModuleType):
        return False
    if isinstance(value, type | FunctionType):
        return value.__module__ == module.__name__
    return f"\n{name} = " in inspect.getsource(module)


def _of_names(names: dict[str, Any]) -> Iterator[str]:
    for name, value in sorted(names.items()):
        if isinstance(value, type):
            yield from _of_class(name, value)
        elif isinstance(value, FunctionType):
            yield from _of_function(name, value)
        else:
            yield f"{name} = {_short(value) if get_origin(value) else repr(value)}"
        yield ""


def _of_class(name: str, kind: type) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in kind.__bases__ if base is not object)
    yield f"class {name}({bases})"
    if dataclasses.is_dataclass(kind):
        frozen = "frozen" if kind.__dataclass_params__.frozen else "mutable"  # type: ignore[attr-defined]
        keyword = all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(kind).parameters.values())
        yield f"    {frozen} dataclass{', keyword only' if keyword else ''}"
        yield from (f"    {field.name}: {_short(field.type)}{_field_default(field)}" for field in dataclasses.fields(kind))
    for member, value in sorted(vars(kind).items()):
        function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        if member.startswith("_") or inspect.ismemberdescriptor(value):
            continue
        if isinstance(value, property):
            yield f"    property {member}{_annotated(' -> ', inspect.signature(value.fget).return_annotation)}"  # type: ignore[arg-type]
        elif callable(function):
            kinds = f"{type(value).__name__} " if function is not value else ""
            yield from (f"    {line}" for line in _of_function(f"{kinds}{member}", function))
        else:
            yield f"    {member} = {value!r}"


def _of_function(name: str, function: Any) -> Iterator[str]:
    signature = inspect.signature(function)
    yield f"{name}{_annotated(' -> ', signature.return_annotation)}"
    star = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            yield "    *"
            star = True
        kind = "" if parameter.kind in {parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD} else f" ({parameter.kind.description})"
        if parameter.name not in {"self", "cls"}:
            yield f"    {parameter.name}{_annotated(': ', parameter.annotation)}{_default(parameter.default)}{kind}"


def _annotated(before: str, annotation: Any) -> str:
    return "" if annotation is inspect.Parameter.empty else f"{before}{_short(annotation)}"


def _short(annotation: Any) -> str:
    """Return a type or its text without modules: ``pyarrow.lib.Table | None`` is ``Table | None``."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", text)
    return re.sub(r"ndarray\[(?:tuple\[Any, \.\.\.\]|Any), dtype\[(\w+)\]\]", r"NDArray[\1]", text)  # numpy 2.0 says Any


def _field_default(field: Any) -> str:
    return _default(field.default if field.default_factory is dataclasses.MISSING else field.default_factory())


def _default(value: Any) -> str:
    if value in (inspect.Parameter.empty, dataclasses.MISSING):
        return ""
    if isinstance(value, FunctionType):
        return " = <function>"
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and value == type(value)():
        return f" = {type(value).__name__}()"
    return f" = {value!r}"


def test_the_public_interface_is_the_frozen_one() -> None:
    assert described() == SNAPSHOT.read_text(encoding="utf-8")


def test_changes_of_an_interface_are_seen() -> None:
    """Names, order, kinds, defaults and types of parameters are all part of the text."""

    def described_function(function: Any) -> list[str]:
        return list(_of_function("f", function))

    def frozen(rows: int, *, alpha: float = 0.01) -> "Path": ...  # type: ignore[empty-body]
    def renamed(row: int, *, alpha: float = 0.01) -> Path: ...  # type: ignore[empty-body]
    def positional(rows: int, alpha: float = 0.01) -> Path: ...  # type: ignore[empty-body]
    def another_default(rows: int, *, alpha: float = 0.05) -> Path: ...  # type: ignore[empty-body]
    def another_type(rows: float, *, alpha: float = 0.01) -> Path: ...  # type: ignore[empty-body]
    def same(rows: int, *, alpha: float = 0.01) -> Path: ...  # type: ignore[empty-body]

    assert described_function(frozen) == described_function(same) == ["f -> Path", "    rows: int", "    *", "    alpha: float = 0.01"]
    for changed in (renamed, positional, another_default, another_type):
        assert described_function(changed) != described_function(frozen)


if __name__ == "__main__":
    print(described(), end="")  # noqa: T201 (the text for the snapshot)
