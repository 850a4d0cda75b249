"""``score --watch``: scan input folders at an interval and score new files into an output folder.

A file counts as complete when two consecutive scans find the same size and modification time. An unreadable file is reported once and
skipped until it changes; a file that changes after it was scored is scored again.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from vae_anomaly.errors import ConfigError, DataError
from vae_anomaly.jobs import manifest
from vae_anomaly.messages import OnProgress, ignore_progress
from vae_anomaly.storage import listing
from vae_anomaly.storage.listing import Listed
from vae_anomaly.tables import files
from vae_anomaly.workflow import score_folder, score_job
from vae_anomaly.workflow.requests import ScoreRequest
from vae_anomaly.workflow.results import Counts
from vae_anomaly.workflow.score_folder import Folder, claim_folder
from vae_anomaly.workflow.score_job import ScoreJob

_logger = logging.getLogger(__name__)

OnPart = Callable[[str, Counts], None]
_Version = tuple[int, int, str]


def watch(
    request: ScoreRequest,
    *,
    interval: float,
    on_part: OnPart = lambda _name, _counts: None,
    tell: OnProgress = ignore_progress,
    pause: Callable[[float], None] = time.sleep,
) -> NoReturn:
    """Scan every ``interval`` seconds and call ``on_part`` for each scored file; only an interrupt or an error ends it.

    Raises ConfigError with ``fdr``, which needs a complete batch, and for an output that is not a folder, OutputError, and DataError only
    for invalid input names.
    """
    if request.fdr is not None:
        raise ConfigError("--watch scores files as they come, and --fdr needs all rows of a batch at once; flag with --alpha instead.")
    if request.format == "delta":
        raise ConfigError("--watch writes one file for each input, and --format delta one table for all of them; leave one of them out.")
    if request.output is None or not score_job.destination(request)[1]:
        raise ConfigError("--watch writes one part for each file: name an output folder with -o, with a / at its end.")
    job = score_job.open_job(request, tell)
    if job.detector.series is not None:
        raise ConfigError(
            "--watch scores files as they come, and this model is of rows in time, which continue the file before. Score the files in "
            "their order, with --state between commands."
        )
    root = manifest.common_root(listing.root_folders(request.data))
    with claim_folder(job) as folder:
        folder_watch = FolderWatch(job=job, folder=folder, root=root, on_part=on_part)
        while True:
            folder_watch.scan()
            pause(interval)


@dataclass(kw_only=True, eq=False)
class FolderWatch:
    """Size and modification time, by location, of the files at the last scan and of the files reported as unreadable."""

    job: ScoreJob
    folder: Folder
    root: str
    on_part: OnPart
    last_scan: dict[str, _Version] = field(default_factory=dict)
    unreadable: dict[str, _Version] = field(default_factory=dict)
    list_error: str = ""  # message of the last scan, if the inputs could not be listed

    def scan(self) -> None:
        """List the inputs and score the files that are new and unchanged since the last scan."""
        try:
            listed = files.with_versions(listing.list_files(self.job.request.data, none_yet=True), self.job.reading.at)
        except DataError as error:
            if str(error) != self.list_error:
                _logger.warning("%s The next scan looks for it again.", error)
            self.list_error = str(error)
            return
        self.list_error = ""
        score_folder.refuse_nested(self.job, listed)
        ready = [file for file in listed if self.last_scan.get(file.location) == _version(file) != self.unreadable.get(file.location)]
        self.last_scan = {file.location: _version(file) for file in listed}
        for file in ready:
            scored_before = file.identity in self.folder.dataset.entries
            if not self.folder.holds(file, again=True):
                if scored_before:
                    _logger.warning("%s has changed since it was scored, and is scored again", file.path)
                self._score(file)
        self.folder.fold()

    def _score(self, file: Listed) -> None:
        try:
            source = score_folder.open_inputs(self.job, [file], rows_needed=False).get(file)
            if source is not None:
                counts, _ = self.folder.add(file, source, self.root)
                self.on_part(file.path, counts)
                return
        except DataError as error:
            message = str(error)
            _logger.warning("%s It is skipped until it changes.", message if message.endswith((".", "?")) else f"{message}.")
        self.unreadable[file.location] = _version(file)


def _version(file: Listed) -> _Version:
    return file.size, file.modified, file.version
