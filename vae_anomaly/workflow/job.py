"""One output and its inputs: how they are read, how they are scored, and what the bytes of the output depend on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vae_anomaly.core.stream import ScoreOptions
from vae_anomaly.edges.places import Place
from vae_anomaly.edges.rejects import OnReject, ignore
from vae_anomaly.edges.tables import NUMBERS, Source
from vae_anomaly.workflow.asked import Asked
from vae_anomaly.workflow.opening import cores


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """One output and the inputs whose rows go there; ``overwrite`` whatever is there."""

    asked: Asked
    place: Place
    source: Source
    overwrite: bool

    @property
    def made_from(self) -> dict[str, Any]:
        """All that the bytes of the output depend on."""
        return {"inputs": self.source.made_of(), **self.asked.made_from()}

    def batches(self, first_row: int, on_reject: OnReject = ignore) -> Iterator[pa.RecordBatch]:
        """Return the input from a row on."""
        groups, plan, schema = self.asked.threshold.groups, self.asked.plan, self.asked.opened.detector.schema
        extra = [*self.asked.request.id_columns, *([groups.column] if groups else [])]
        size = {"chunk_rows": plan.chunk_rows, "chunk_bytes": plan.chunk_bytes}
        return self.source.batches(schema, extra=extra, first_row=first_row, on_reject=on_reject, **size)

    def options(self, first_row: int) -> ScoreOptions:
        """Return how to score from a row on."""
        request, name = self.asked.request, self.asked.opened.name
        return ScoreOptions(
            typicality=request.typicality,
            explain=request.explain,
            top=request.top,
            id_columns=request.id_columns,
            model=name.name,
            model_version=name.version,
            threads=request.threads or cores(),
            first_row=first_row,
            row_numbers="" if request.on_error == "stop" else NUMBERS,
            where=self.source.files[0].path,
        )
