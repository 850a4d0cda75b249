"""Write the generated pages of the reference: commands from Typer, settings from config.py, the Python API from docstrings.

    python docs/generate.py

The pages are kept in git, so that they can be read without building the site; ``tests/test_docs.py`` fails when one is out of date.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from typer.main import get_command

import vae_anomaly
from vae_anomaly.cli.app import app
from vae_anomaly.config import _RANGES, Config

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py. Do not edit. -->\n\n"
_NO_BRACES = str.maketrans("", "", "{}")
# Every setting has a comment here that says what it does.
COMMENTED = DOCS.parent / "pipelines" / "tabular.toml"


def pages() -> dict[Path, str]:
    """Every generated page by its path."""
    texts = {"commands": "\n".join(_commands()), "configuration": "\n".join(_configuration()), "python-api": "\n".join(_api())}
    return {DOCS / "reference" / f"{name}.md": f"{NOTE}{text.rstrip()}\n" for name, text in texts.items()}


# Commands


def _commands() -> Iterator[str]:
    root = get_command(app)
    commands: dict[str, Any] = getattr(root, "commands", {})
    yield "# Commands\n"
    yield f"{root.help} `vae-anomaly COMMAND --help` prints the same text.\n"
    yield "| command | what it does |\n|---|---|"
    for name, command in commands.items():
        yield f"| [`{name}`](#{name}) | {command.help.partition('. ')[0].rstrip('.')} |"
    for name, command in commands.items():
        yield from _command(name, command)


def _command(name: str, command: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=f"vae-anomaly {name}")
    yield f"\n## {name}\n\n{command.help}\n"
    yield f"```text\n{context.command_path} {' '.join(command.collect_usage_pieces(context)).translate(_NO_BRACES)}\n```\n"
    if command.epilog:
        example = command.epilog.removeprefix("\b\n")  # Click's mark of a paragraph that is not wrapped
        yield f"{example.strip().replace('vae-anomaly', '`vae-anomaly', 1)}`"
    for title, records in _by_panel(command, context).items():
        yield f"\n**{title}**\n"
        for names, text in records:
            yield f"- `{names}`: {_shown_default(text)}"


def _by_panel(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """Arguments and options as `--help` groups them."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            is_argument = parameter.param_type_name == "argument"
            title = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None)
            name = record[0].split(" ")[0] if is_argument else record[0]  # without its type
            panels.setdefault(title or "Every command", []).append((name, record[1]))
    return panels


def _shown_default(text: str) -> str:
    """`[default: (all cores)]` as `Default: all cores.`, and options in the text as code."""
    text = re.sub(r"(?<!\S)(--[a-z][a-z-]*)", r"`\1`", text)
    text = re.sub(r"x>=(\S+)(?=[;\]])", r"at least \1", re.sub(r"(\d+)<=x<=(\d+)", r"\1 to \2", text))
    return re.sub(r"  \[(.*)\]$", lambda found: " " + _sentence(re.sub(r"default: \(([^)]*)\)", r"default: \1", found[1])), text)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."


# Configuration


def _configuration() -> Iterator[str]:
    meaning = _meanings()
    yield "# Configuration\n"
    yield (
        "`vae-anomaly fit --config FILE` reads a TOML file. Options on the command line take precedence. An unknown key, a wrong type or a "
        "value out of range is an error, and all problems are reported at once. "
        "`pipelines/tabular.toml` and `pipelines/sensor.toml` are complete files to copy.\n"
    )
    yield "A setting without a default is absent from the file when it is not used.\n"
    config = Config()
    sections = [f.name for f in fields(config) if is_dataclass(getattr(config, f.name))]
    yield from _table("Top level", "", [f.name for f in fields(config) if f.name not in sections], config, meaning)
    for name in sections:
        section = getattr(config, name)
        yield from _table(name, f"{name}.", [f.name for f in fields(section)], section, meaning)


def _table(title: str, prefix: str, names: list[str], section: Any, meaning: dict[str, str]) -> Iterator[str]:
    hints = get_type_hints(type(section))
    yield f"## {title}\n"
    if prefix:
        yield f"Section `[{title}]`. {_text(inspect.getdoc(type(section)))}\n"
    yield "| setting | type | default | meaning |\n|---|---|---|---|"
    for name in names:
        holds = _RANGES.get(prefix + name)
        values = _choices(hints[name])
        kind = _type(hints[name], values)
        allowed = "" if holds is None else f" Allowed: {_cell(holds[1])}."
        yield f"| `{name}` | {kind} | {_default(getattr(section, name))} | {_cell(meaning[prefix + name])}{allowed} |"
    yield ""


def _type(hint: Any, choices: str) -> str:
    """Name a type as TOML does."""
    words = {str: "string", int: "integer", float: "float", bool: "boolean"}
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if get_origin(hint) is tuple:
        return f"array of {choices}" if choices else f"array of {words[kinds[0]]}s"
    return f"one of {choices}" if choices else words[kinds[0] if kinds else hint]


def _choices(hint: Any) -> str:
    found = get_args(hint)
    inner = next((get_args(kind) for kind in found if get_args(kind)), ()) if found and not isinstance(found[0], str) else found
    return ", ".join(f"`{value}`" for value in inner if isinstance(value, str))


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "`[" + ", ".join(_toml(one) for one in value) + "]`"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _meanings() -> dict[str, str]:
    """The comment behind every setting of the commented file."""
    found: dict[str, str] = {}
    section = ""
    for line in COMMENTED.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            section = f"{heading[1]}."
        elif setting := re.fullmatch(r"(?:# )?(\w+) = .*?# (.*)", line):
            found[section + setting[1]] = _sentence(setting[2].strip())
    return found


# Python API


def _api() -> Iterator[str]:
    yield "# Python API\n"
    yield "The public names of `vae_anomaly`. Each is imported on first use, so `import vae_anomaly` is cheap. "
    yield "[Use it from Python](../how-to/use-from-python.md) has an example.\n"
    for name in vae_anomaly.__all__:
        value = getattr(vae_anomaly, name)
        yield f"## {name}\n"
        yield from _class(value) if inspect.isclass(value) else _function(value)


def _class(kind: type) -> Iterator[str]:
    source, node = _source(kind)
    assert isinstance(node, ast.ClassDef)
    fields_of = [f"    {ast.get_source_segment(source, child)}" for child in node.body if isinstance(child, ast.AnnAssign)]
    yield _code("\n".join([f"class {kind.__name__}:", *fields_of]) if fields_of else f"class {kind.__name__}") + "\n"
    yield _text(inspect.getdoc(kind)) + "\n"
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            yield f"### {kind.__name__}.{child.name}\n"
            yield _code(_signature(source, child)) + "\n"
            yield _text(ast.get_docstring(child)) + "\n"


def _function(value: Any) -> Iterator[str]:
    source, node = _source(value)
    assert isinstance(node, ast.FunctionDef)
    yield _code(_signature(source, node)) + "\n"
    yield _text(ast.get_docstring(node)) + "\n"


def _source(value: Any) -> tuple[str, ast.stmt]:
    """The source of a public object, whose annotations and defaults are shown as they were written."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(value)))
    return source, ast.parse(source).body[0]


def _signature(source: str, node: ast.FunctionDef) -> str:
    """The lines from the last decorator or `def` up to the docstring, without the colon."""
    kinds = [f"@{d.id}\n" for d in node.decorator_list if isinstance(d, ast.Name) and d.id in {"property", "classmethod", "staticmethod"}]
    lines = source.splitlines()[node.lineno - 1 : node.body[0].lineno - 1]
    return "".join(kinds) + textwrap.dedent("\n".join(lines)).rstrip(":")


def _text(docstring: str | None) -> str:
    """A docstring as Markdown: double backticks become single ones, examples and sections blocks of their own."""
    text = (docstring or "").replace("``", "`")
    text = re.sub(r"^(\w+)\n-+\n", lambda found: f"**{found[1]}**\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"^(\w+)\n {4}(?=\S)", r"- `\1`: ", text, flags=re.MULTILINE)
    return re.sub(
        r"((?:^>>> .*\n?(?:^(?!>>>)\S.*\n?)*)+)", lambda found: "```pycon\n" + found[1].rstrip() + "\n```", text, flags=re.MULTILINE
    )


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Write every page that has changed."""
    for path, text in pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main()
