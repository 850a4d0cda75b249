"""How ``--help`` looks: options under headings. Knows no option."""

import re
from typing import Any

from typer.core import TyperCommand


class GroupedHelp(TyperCommand):
    """Help with the options under their headings, without the cost of Rich."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one section a heading, in the order of the declarations."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                title = "Arguments" if parameter.param_type_name == "argument" else getattr(parameter, "rich_help_panel", None)
                sections.setdefault(title or "Every command", []).append((record[0], _without_brackets(record[1])))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _without_brackets(text: str) -> str:
    """``[default: (all cores)]`` as ``[default: all cores]``."""
    return re.sub(r"\[default: \(([^)]*)\)", r"[default: \1", text)
