"""Work folder of a fit: request, training checkpoints and finished model, kept until the model is saved, logged and registered.

``.<model>.fit.resume/`` or ``.<output>.resume/`` contains the lock; ``request.json``, digests of data and settings and the name of the
job; the latest state of each training stage; the result of the first pass of a robust fit; and, once fitted, the model in ``detector/``
with ``finished.json``. No error here aborts a fit: a checkpoint that cannot be written is skipped, a damaged one is removed, both with a
warning.
"""

import glob
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from vae_anomaly import artifact
from vae_anomaly.config import TrackingConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ArtifactError, DataError, Interrupted, OutputError, TrackingError, VaeAnomalyError
from vae_anomaly.fitting.robust import TrimmedRows
from vae_anomaly.jobs import claim, training_state
from vae_anomaly.jobs.claim import LOCK_FILE, REQUEST_FILE, State, WorkFolder, differences, digests_of, folder_of
from vae_anomaly.jobs.signals import Interruption
from vae_anomaly.model.training import TrainingState
from vae_anomaly.storage.atomic import writing

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")
CHECKPOINT_FORMAT = 1
# Training time between two checkpoints, which is also the most that is repeated after a kill. Writing one takes about 0.05 s.
CHECKPOINT_SECONDS = 5.0
# The training goes on for at least this many times as long as the last checkpoint took: a wide model is hundreds of megabytes.
CHECKPOINT_SHARE = 20.0
# Files without which a work folder has nothing to resume from.
BOOKKEEPING = {LOCK_FILE, REQUEST_FILE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Request of a work folder: digests of data and settings, the ``job`` that tags its MLflow runs, and the store of these runs."""

    digests: Mapping[str, str]
    job: str
    tracking: TrackingConfig


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finished:
    """A fitted model that is not published yet: its ``folder``, and the other ``results`` of the fit (plain JSON values)."""

    detector: Detector
    folder: Path
    results: Mapping[str, Any]


@dataclass(kw_only=True)
class Checkpoint:
    """Claimed work ``folder`` of a fit, None if none can be written; implements ``fitting.checkpointing.TrainingCheckpoint``.

    ``workdir`` is the folder of the first fit of that name; concurrent ones have a number appended. A checkpoint is written every ``every``
    steps (None: every ``CHECKPOINT_SECONDS``, less often where writing takes long), at the end of a training stage, and when an
    interruption is requested.
    """

    workdir: Path
    folder: Path | None
    digests: Mapping[str, str]
    interruption: Interruption
    every: int | None = None
    job: str = ""
    begun: bool = False
    run_open: bool = False
    resumed_steps: int = 0
    since: float = field(default_factory=time.monotonic)
    took: float = 0.0

    def earlier(self) -> Request | None:
        """Return the request of an earlier fit in this folder, None if there is none."""
        return None if self.folder is None else request_in(self.folder)

    def state(self) -> State:
        """Return *done* if an interrupted fit of the same request had finished its model, *resumable* if not, else *fresh*."""
        earlier = self.earlier()
        if earlier is None or earlier.digests != self.digests:
            return "fresh"
        return "resumable" if self.finished_folder() is None else "done"

    def begin(self, tracking: TrackingConfig, *, restart: bool) -> None:
        """Take over the folder: keep checkpoints of the same request unless ``restart``, remove everything else."""
        earlier, self.begun = self.earlier(), True
        if earlier is not None and self.state() != "fresh" and not restart:
            self.job = earlier.job
            _logger.info("resuming the interrupted fit in %s", self.folder)
            return
        if earlier is not None and self.state() == "fresh":
            other = " and ".join(differences(self.digests, earlier.digests))
            _logger.warning("%s is of another interrupted fit (other %s): starting over", self.folder, other)
        job = secrets.token_hex(8)
        content = {"format": CHECKPOINT_FORMAT, "digests": dict(self.digests), "job": job, "tracking": asdict(tracking)}

        def write_request(folder: Path) -> str:
            claim.clear(folder)
            self._note(folder, "request", content)
            return job

        self.job = self._try_write(write_request) or ""

    # Methods of fitting.checkpointing.TrainingCheckpoint

    def load_training(self, stage: str) -> TrainingState | None:
        """Return the last checkpoint of a training stage, None if there is none."""
        state = self._read(_file_name(stage), training_state.read_training)
        if state is not None:
            self.resumed_steps += state.step
        return state

    def after_step(self, stage: str, done: int, total: int, training: Callable[[], TrainingState]) -> None:
        """Write a checkpoint if one is due. Raises KeyboardInterrupt, after writing one, if an interruption was requested."""
        if self.folder is None:
            return
        stop, self.interruption.deferred = self.interruption.requested, done < total and not self.interruption.requested
        if stop or done == total or self._due(done):
            began = time.monotonic()
            self._try_write(lambda folder: training_state.write_training(folder / _file_name(stage), training()))
            self.since = time.monotonic()
            self.took = self.since - began
        if stop:
            raise KeyboardInterrupt

    def load_trimmed_rows(self) -> TrimmedRows | None:
        """Return the result of the first pass of a robust fit, None if it is not stored."""
        return self._read(_file_name("doubts"), training_state.read_trimmed_rows)

    def save_trimmed_rows(self, trimmed: TrimmedRows) -> None:
        """Store the result of the first pass of a robust fit."""
        self._try_write(lambda folder: training_state.write_trimmed_rows(folder / _file_name("doubts"), trimmed))

    # The finished model

    def save_finished(self, detector: Detector, results: Mapping[str, Any]) -> None:
        """Store a finished model and the other results of its fit until they are published."""

        def write_model(folder: Path) -> None:
            detector_folder = folder / "detector"
            artifact.save(detector, detector_folder, replace=True)
            fingerprint = artifact.fingerprint(detector_folder)
            self._note(folder, "finished", {"folder": str(detector_folder.absolute()), "fingerprint": fingerprint, "found": results})

        self._try_write(write_model)

    def finished(self) -> Finished | None:
        """Return the finished model of an interrupted fit, also after ``move_finished``; None if it is missing or was changed."""
        note = self._noted("finished")
        try:
            folder = Path(note["folder"])
            if artifact.fingerprint(folder) == note["fingerprint"]:
                return Finished(detector=artifact.load(folder), folder=folder, results=dict(note["found"]))
        except (ArtifactError, KeyError, TypeError, ValueError):
            _logger.debug("no finished model in %s", self.folder)
        return None

    def is_finished_model(self, folder: Path) -> bool:
        """Whether a folder contains exactly the model that this fit finished."""
        note = self._noted("finished")
        try:
            return artifact.is_artifact(folder) and artifact.fingerprint(folder) == note["fingerprint"]
        except (ArtifactError, KeyError):
            return False

    def finished_folder(self) -> Path | None:
        """Return the folder of the finished model, None if none was stored."""
        note = self._noted("finished")
        return Path(note["folder"]) if note else None

    def move_finished(self, to: Path) -> bool:
        """Rename the folder of the finished model, which also works on a full disk; False if that failed."""
        note = self._noted("finished")
        try:
            Path(note["folder"]).rename(to)
        except (OSError, KeyError):
            return False
        self._try_write(lambda folder: self._note(folder, "finished", {**note, "folder": str(to.absolute())}))
        return True

    def has_progress(self) -> bool:
        """Whether there is a checkpoint or a finished model to resume from."""
        return self.folder is not None and WorkFolder(output=self.workdir, folder=self.folder).holds_other_than(*BOOKKEEPING)

    # Files of the folder

    def _due(self, done: int) -> bool:
        if self.every is not None:
            return done % self.every == 0
        return time.monotonic() - self.since >= max(CHECKPOINT_SECONDS, CHECKPOINT_SHARE * self.took)

    def _noted(self, name: str) -> dict[str, Any]:
        return {} if self.folder is None else WorkFolder(output=self.workdir, folder=self.folder).noted(name) or {}

    def _note(self, folder: Path, name: str, value: Mapping[str, Any]) -> None:
        WorkFolder(output=self.workdir, folder=folder).note(name, value)

    def _read(self, name: str, read: Callable[[Path], _T]) -> _T | None:
        """Read a checkpoint file; None if it is missing, or damaged and therefore removed."""
        if self.folder is None or not (self.folder / name).exists():
            return None
        try:
            return read(self.folder / name)
        except training_state.DAMAGE as error:
            _logger.warning("%s is damaged (%s): its steps are repeated", self.folder / name, " ".join(str(error).split()))
            with suppress(OSError):
                (self.folder / name).unlink()
            return None

    def _try_write(self, write: Callable[[Path], _T]) -> _T | None:
        """Write to the folder; after a failure the fit continues without checkpoints, and those written are removed to free the disk."""
        if self.folder is None:
            return None
        try:
            return write(self.folder)
        except (OSError, OutputError) as error:
            why = str(error) if isinstance(error, OutputError) else (error.strerror or str(error)).lower()
            _logger.warning("no more checkpoints are written, and an interrupted fit starts over: %s", why.rstrip("."))
            for path in self.folder.iterdir():
                with suppress(OSError):
                    if path.name not in BOOKKEEPING:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.folder = None
            return None


def workdir_of(output: Path | None, model_name: str) -> Path:
    """Return the work folder of a fit: next to its output folder, or in the current folder and named after the model."""
    return Path(f".{model_name}.fit.resume") if output is None else folder_of(output)


def request_in(folder: Path) -> Request | None:
    """Return the request of a work folder, None if it is missing or invalid."""
    note = WorkFolder(output=folder, folder=folder).noted("request")
    try:
        if note and note["format"] == CHECKPOINT_FORMAT:
            return Request(digests=dict(note["digests"]), job=str(note["job"]), tracking=TrackingConfig(**note["tracking"]))
    except (KeyError, TypeError, ValueError):
        pass
    return None


def _file_name(stage: str) -> str:
    return f"{stage.replace(' ', '-')}.safetensors"


# Registers a function to call at process exit, like ``atexit.register``.
AtExit = Callable[[Callable[[], None]], object]
# Errors that the same command may not meet again, exactly of these classes.
TRANSIENT_ERRORS = (DataError, OutputError, TrackingError)


@contextmanager
def claim_fit(
    workdir: Path, made_from: Mapping[str, Any], interruption: Interruption, *, needed: bool, at_exit: AtExit | None = None
) -> Iterator[Checkpoint]:
    """Claim a work folder for this process: the one with checkpoints of the same request, or else one that is not locked.

    Concurrent fits of one name use ``workdir`` with numbers appended. The folder is removed when the block ends, and after an error that
    leaves nothing to resume from or that the same command would meet again. With ``at_exit`` it is removed at process exit: a process
    killed between the end of its fit and its last output counts as failed for its scheduler and is started again. If no folder can be
    created, the fit has no checkpoints, or with ``needed`` OutputError is raised.
    """
    digests = digests_of(made_from)
    folder, handle = _claim_or_warn(workdir, digests, needed=needed)
    checkpoint = Checkpoint(workdir=workdir, folder=folder, digests=digests, interruption=interruption)
    try:
        yield checkpoint
    except BaseException as error:
        if folder is not None and not _is_needed_after(error, checkpoint):
            claim.remove(folder)
        elif isinstance(error, KeyboardInterrupt) and checkpoint.begun:
            raise Interrupted(f"interrupted; completed work is kept in {folder}. Run the same command again to resume.") from None
        raise
    else:
        if folder is not None and at_exit is not None:
            at_exit(partial(_remove_and_unlock, folder, handle))
            handle = None
        elif folder is not None:
            claim.remove(folder)
    finally:
        if handle is not None:
            os.close(handle)


def _remove_and_unlock(folder: Path, handle: int | None) -> None:
    claim.remove(folder)
    if handle is not None:
        os.close(handle)


def _is_needed_after(error: BaseException, checkpoint: Checkpoint) -> bool:
    """Whether the folder is needed after an error: it belongs to another fit, has progress to resume from, or names an open MLflow run."""
    if not checkpoint.begun:
        return checkpoint.earlier() is not None
    transient = not isinstance(error, VaeAnomalyError) or type(error) in TRANSIENT_ERRORS
    return transient and (checkpoint.has_progress() or (checkpoint.run_open and isinstance(error, TrackingError)))


def _claim_or_warn(workdir: Path, digests: Mapping[str, str], *, needed: bool) -> tuple[Path | None, int | None]:
    """Return a claimed folder and its lock."""
    try:
        with writing(workdir):
            workdir.parent.mkdir(parents=True, exist_ok=True)
            return _claim(workdir, digests)
    except OutputError as error:
        if needed:
            raise
        _logger.warning("this fit cannot be resumed if it is interrupted: %s", str(error).rstrip("."))
        return None, None


def _claim(workdir: Path, digests: Mapping[str, str]) -> tuple[Path, int]:
    """Lock the folder of the same request, else an unlocked folder, else a new one."""
    pattern = re.compile(rf"{re.escape(workdir.name)}-\d+")
    numbered = [path for path in sorted(workdir.parent.glob(f"{glob.escape(workdir.name)}-*")) if pattern.fullmatch(path.name)]
    free: tuple[Path, int] | None = None
    for folder in [workdir, *numbered]:
        handle = _lock(folder) if folder.is_dir() else None
        if handle is None:
            continue
        request = request_in(folder)
        if request is not None and request.digests == digests:
            if free is not None:
                os.close(free[1])
            return folder, handle
        if free is None:
            free = folder, handle
        else:
            os.close(handle)
    return free or next((folder, handle) for folder in _names(workdir) if (handle := _lock(folder)) is not None)


def _names(workdir: Path) -> Iterator[Path]:
    yield workdir
    yield from (workdir.with_name(f"{workdir.name}-{number}") for number in count(2))


def _lock(folder: Path) -> int | None:
    """Lock a folder; None if another process holds the lock."""
    try:
        return claim.lock(folder)
    except claim.Taken:
        return None
