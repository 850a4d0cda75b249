"""Watch folders: what appears in them is scored into an output folder as soon as it is whole.

A file is taken for whole when two looks at it, one interval apart, find the same size and time of change. One that then cannot be read is
reported once and left until it changes; one that changes after it was scored is scored again. Knows nothing about rows.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from vae_anomaly.errors import ConfigError, DataError
from vae_anomaly.jobs import manifest
from vae_anomaly.messages import Tell, tell_nobody
from vae_anomaly.storage import listing
from vae_anomaly.storage.listing import Listed
from vae_anomaly.workflow import score_folder, score_job
from vae_anomaly.workflow.results import Counts
from vae_anomaly.workflow.score import make
from vae_anomaly.workflow.score_folder import Folder, claim_folder
from vae_anomaly.workflow.score_job import Asked, ScoreRequest

_logger = logging.getLogger(__name__)

OnPart = Callable[[str, Counts], None]
State = tuple[int, int]


def watch(
    request: ScoreRequest,
    *,
    interval: float,
    on_part: OnPart = lambda _name, _counts: None,
    tell: Tell = tell_nobody,
    pause: Callable[[float], None] = time.sleep,
) -> NoReturn:
    """Look every ``interval`` seconds, score what is new and whole, and tell ``on_part``; ends by an interrupt or an error alone.

    Raises ConfigError for a false-discovery rate, which is one of a finished batch, and for an output that is no folder, OutputError, and
    DataError only for inputs that cannot even be named.
    """
    if request.fdr is not None:
        raise ConfigError("--watch scores files as they come, and --fdr needs all rows of a batch at once; flag with --alpha instead.")
    if request.output is None or not score_job.destination(request)[1]:
        raise ConfigError("--watch writes one part for each file: name an output folder with -o, with a / at its end.")
    job = score_job.open_job(request, tell)
    root = manifest.common_root(listing.roots(request.data))
    with claim_folder(job, make) as folder:
        looking = Looking(asked=job, folder=folder, root=root, on_part=on_part)
        while True:
            looking.once()
            pause(interval)


@dataclass(kw_only=True, eq=False)
class Looking:
    """What was seen at the last look, and what was complained about, by location: size and time of change."""

    asked: Asked
    folder: Folder
    root: str
    on_part: OnPart
    seen: dict[str, State] = field(default_factory=dict)
    refused: dict[str, State] = field(default_factory=dict)
    unreachable: str = ""

    def once(self) -> None:
        """Look, and score what is new and as it was at the last look."""
        try:
            listed = listing.list_files(self.asked.request.data, none_yet=True)
        except DataError as error:
            if str(error) != self.unreachable:
                _logger.warning("%s It is looked for again.", error)
            self.unreachable = str(error)
            return
        self.unreachable = ""
        score_folder.refuse_nested(self.asked, listed)
        ready = [file for file in listed if self.seen.get(file.location) == _state(file) != self.refused.get(file.location)]
        self.seen = {file.location: _state(file) for file in listed}
        for file in ready:
            known = file.identity in self.folder.dataset.entries
            if not self.folder.holds(file, again=True):
                if known:
                    _logger.warning("%s has changed since it was scored, and is scored again", file.path)
                self._score(file)
        self.folder.fold()

    def _score(self, file: Listed) -> None:
        try:
            source = score_folder.open_inputs(self.asked, [file], rows_needed=False).get(file)
            if source is not None:
                counts, _ = self.folder.add(file, source, self.root)
                self.on_part(file.path, counts)
                return
        except DataError as error:
            said = str(error)
            _logger.warning("%s It is left until it changes.", said if said.endswith((".", "?")) else f"{said}.")
        self.refused[file.location] = _state(file)


def _state(file: Listed) -> State:
    return file.size, file.modified
