"""How a scoring keeps what it has finished, and how it goes on from there after a kill.

Knows output batches and what was counted with them, not how parts lie on disk. Output rows go to the output and, gathered to parts,
into the folder of ``edges.resume``; to go on is to send the kept rows to the output once more and to read the input from the row
after them.
"""

import logging
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import torch
from pydantic import TypeAdapter

from vae_anomaly.jobs.score_workdir import FinishedRows, Unfinished
from vae_anomaly.workflow.results import Discovery
from vae_anomaly.workflow.score_counts import Counting, counting_from
from vae_anomaly.workflow.score_fdr import Ranks

_logger = logging.getLogger(__name__)
# A part is kept at the latest after so much time, and before it holds more memory than that.
PART_SECONDS = 10.0
PART_BYTES = 32 * 2**20


@dataclass(kw_only=True)
class Pace:
    """When it is time to keep what is done: after so many rows, after some seconds, or when it becomes large."""

    part_rows: int
    part_bytes: int = PART_BYTES
    rows: int = 0
    bytes: int = 0
    since: float = field(default_factory=time.monotonic)

    def due(self, rows: int, size: int = 0) -> bool:
        """Add ``rows`` of ``size`` bytes; True starts again from nothing."""
        self.rows += rows
        self.bytes += size
        late = time.monotonic() - self.since >= PART_SECONDS
        if self.rows == 0 or not (late or self.rows >= self.part_rows or self.bytes >= self.part_bytes):
            return False
        self.rows, self.bytes, self.since = 0, 0, time.monotonic()
        return True


def install() -> dict[str, str]:
    """Return what the last bit of a score may depend on besides model and input: rows of two kinds are not joined."""
    return {
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
    }


def counted_before(parts: tuple[FinishedRows, ...], ids: tuple[str, ...]) -> Counting:
    """Return what was counted up to the end of the kept parts."""
    return counting_from(parts[-1].counted) if parts else Counting(ids=ids)


def kept_rows(parts: tuple[FinishedRows, ...]) -> Iterator[pa.RecordBatch]:
    """Return the output rows of the kept parts."""
    for part in parts:
        yield from part.batches()


def keeping(
    batches: Iterator[pa.RecordBatch], counting: Counting, unfinished: Unfinished, pace: Pace, sync: Callable[[], None]
) -> Iterator[pa.RecordBatch]:
    """Let output batches pass and keep them in parts, each with what ``counting`` holds at its end.

    A batch must come by before the next one is counted. ``sync`` is called before a part is kept.
    """
    first, held = counting.rows, list[pa.RecordBatch]()
    for batch in batches:
        held.append(batch)
        if pace.due(batch.num_rows, batch.nbytes):
            sync()
            if not unfinished.keep(first, held, counting.state()):
                _logger.warning("the disk is nearly full: nothing is kept to go on from if this run is killed")
                yield batch
                break
            first, held = counting.rows, []
        yield batch
    yield from batches


def rank_keeper(unfinished: Unfinished, part_rows: int) -> Callable[[Ranks], None]:
    """Return what notes the ranks of a first pass from time to time."""
    pace, last = Pace(part_rows=part_rows), ranks_before(unfinished)
    done = last.rows if last else 0

    def keep(ranks: Ranks) -> None:
        nonlocal done
        if pace.due(ranks.rows - done):
            unfinished.note("ranks", {"rows": ranks.rows, "counts": ranks.counts.tolist()})
        done = ranks.rows

    return keep


def ranks_before(unfinished: Unfinished) -> Ranks | None:
    """Return the ranks that a killed first pass had counted."""
    found = unfinished.noted("ranks")
    return Ranks(rows=found["rows"], counts=np.array(found["counts"], dtype=np.int64)) if found else None


def discovery_before(unfinished: Unfinished) -> Discovery | None:
    """Return the cut-off that a first pass had found."""
    found = unfinished.noted("discovery")
    return TypeAdapter(Discovery).validate_python(found) if found else None


def note_discovery(unfinished: Unfinished, discovery: Discovery) -> None:
    """Keep the cut-off; a second pass does not start before."""
    unfinished.note("discovery", asdict(discovery))
