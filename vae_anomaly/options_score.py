"""The options that only ``score`` has: where and in what form it writes, what it holds at a time, and watching.

Knows nothing about what the options do.
"""

from typing import Annotated, Literal

import typer

ScoreOutput = Annotated[
    str | None,
    typer.Option("--output", "-o", help="Where to write: a file, the ending .csv or .parquet says how; or a folder, a part for each input.",
                 metavar="FILE|DIR/", show_default="NAME.scores.csv or .parquet beside the input", rich_help_panel="Tracking and output"),
]  # fmt: skip
PartFormat = Annotated[
    Literal["csv", "parquet"] | None,
    typer.Option("--format", help="How the parts in an output folder are written.", show_default="as the input of each",
                 rich_help_panel="Tracking and output"),
]  # fmt: skip
Watch = Annotated[bool, typer.Option("--watch", help="Go on: score what appears in the input folders, into an output folder.",
                                     rich_help_panel="Watching")]  # fmt: skip
WatchInterval = Annotated[
    float, typer.Option("--watch-interval", min=0.01, help="Seconds between two looks; a file that is the same at both is taken for whole.",
                        metavar="SECONDS", rich_help_panel="Watching")
]  # fmt: skip
MemoryLimit = Annotated[
    str | None,
    typer.Option(help="Memory that the process may take, as 1.5GB or 2GiB; the scores do not depend on it.", metavar="SIZE",
                 show_default="none", rich_help_panel="Running"),
]  # fmt: skip
ChunkRows = Annotated[
    int,
    typer.Option(
        min=1, max=1_000_000_000, help="Rows in memory at a time; the scores do not depend on it.", metavar="N", rich_help_panel="Running"
    ),
]
PartRows = Annotated[
    int,
    typer.Option(
        "--part-rows", min=1, help="Rows after which a killed run can go on.", metavar="N", hidden=True, rich_help_panel="Running"
    ),
]
