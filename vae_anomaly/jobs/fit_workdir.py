"""``.<model>.fit.resume/``: what a fit that was cut off had done, kept until its model is where it belongs.

In it lie ``lock``, held by the process that fits; ``request.json``, digests of what the fit is made from and the name of its job; the last
state of a training and what a first pass found; and, once fitted, the model in ``detector/`` with ``fitted.json``. All of it is data, and
whole or absent. Nothing here ends a fit: what cannot be kept is not kept, what is damaged is removed, and both are said. Knows no tables
and no MLflow.
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
from vae_anomaly.fitting.robust import Doubts
from vae_anomaly.jobs import score_workdir, training_state
from vae_anomaly.jobs.signals import Interruption
from vae_anomaly.model.training import Training
from vae_anomaly.storage import locks
from vae_anomaly.storage.atomic import writing

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")
CHECKPOINT_FORMAT = 1
# Where nothing else is asked for. A state takes some hundredths of a second to keep; this is what is done twice at most.
SECONDS = 5.0
NO_STEP = {"lock", "request.json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What lies in a folder: digests of what it was made from, the ``job`` that its runs are tagged with, and where they are logged."""

    digests: Mapping[str, str]
    job: str
    tracking: TrackingConfig


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finished:
    """A model that is fitted and not yet where it belongs: its ``folder``, and what else its fit ``found`` (plain JSON values)."""

    detector: Detector
    folder: Path
    found: Mapping[str, Any]


@dataclass(kw_only=True)
class Checkpoint:
    """The claimed folder of a fit, None where nothing can be kept; a ``core.stages.Memory``.

    A state is kept after ``every`` steps, or else some seconds, when a training ends, and when somebody asks to stop.
    """

    place: Path
    folder: Path | None
    digests: Mapping[str, str]
    interruption: Interruption
    every: int | None = None
    job: str = ""
    begun: bool = False
    run_open: bool = False
    resumed_steps: int = 0
    since: float = field(default_factory=time.monotonic)

    def earlier(self) -> Request | None:
        """Return what a fit has left here; None: nothing."""
        return None if self.folder is None else request_in(self.folder)

    def goes_on(self) -> bool:
        """Whether the same fit was cut off here."""
        earlier = self.earlier()
        return earlier is not None and earlier.digests == self.digests

    def begin(self, tracking: TrackingConfig, *, anew: bool) -> None:
        """Make the folder that of this fit: what the same one had done stays unless it is to begin ``anew``, anything else is removed."""
        earlier, self.begun = self.earlier(), True
        if earlier is not None and self.goes_on() and not anew:
            self.job = earlier.job
            _logger.info("going on with the fit that was cut off in %s", self.folder)
            return
        if earlier is not None and not self.goes_on():
            keys = sorted({*self.digests, *earlier.digests})
            other = [name for name in keys if earlier.digests.get(name) != self.digests.get(name)]
            _logger.warning("%s holds another fit that was cut off (other %s): this one starts anew", self.folder, " and ".join(other))
        job = secrets.token_hex(8)
        content = {"format": CHECKPOINT_FORMAT, "digests": dict(self.digests), "job": job, "tracking": asdict(tracking)}

        def make(folder: Path) -> str:
            locks.clear(folder)
            self._note(folder, "request", content)
            return job

        self.job = self._kept(make) or ""

    # What core.stages.Memory asks for

    def training(self, stage: str) -> Training | None:
        """Return the state that the training of a stage was cut off in."""
        found = self._read(_name(stage), training_state.read_training)
        if found is not None:
            self.resumed_steps += found.step
        return found

    def keep(self, stage: str, done: int, total: int, training: Callable[[], Training]) -> None:
        """Keep the state if it is time. Raises KeyboardInterrupt when somebody has asked to stop, and then it is kept."""
        if self.folder is None:
            return
        asked, self.interruption.waits = self.interruption.asked, done < total and not self.interruption.asked
        if asked or done == total or self._due(done):
            self._kept(lambda folder: training_state.write_training(folder / _name(stage), training()))
            self.since = time.monotonic()
        if asked:
            raise KeyboardInterrupt

    def doubts(self) -> Doubts | None:
        """Return what the first pass had found."""
        return self._read(_name("doubts"), training_state.read_doubts)

    def keep_doubts(self, doubts: Doubts) -> None:
        """Keep what the first pass has found."""
        self._kept(lambda folder: training_state.write_doubts(folder / _name("doubts"), doubts))

    # The finished model

    def keep_finished(self, detector: Detector, found: Mapping[str, Any]) -> None:
        """Keep a finished model until it is where it belongs."""

        def make(folder: Path) -> None:
            detector_folder = folder / "detector"
            artifact.save(detector, detector_folder, replace=True)
            fingerprint = artifact.fingerprint(detector_folder)
            self._note(folder, "finished", {"folder": str(detector_folder.absolute()), "fingerprint": fingerprint, "found": found})

        self._kept(make)

    def finished(self) -> Finished | None:
        """Return the finished model of the fit that was cut off here, wherever it was moved to; None: there is none, or not any more."""
        said = self._noted("finished")
        try:
            folder = Path(said["folder"])
            if artifact.fingerprint(folder) == said["fingerprint"]:
                return Finished(detector=artifact.load(folder), folder=folder, found=dict(said["found"]))
        except (ArtifactError, KeyError, TypeError, ValueError):
            _logger.debug("no finished model in %s", self.folder)
        return None

    def is_finished_model(self, folder: Path) -> bool:
        """Whether a folder holds the very model that the fit here had finished."""
        said = self._noted("finished")
        try:
            return artifact.is_artifact(folder) and artifact.fingerprint(folder) == said["fingerprint"]
        except (ArtifactError, KeyError):
            return False

    def finished_folder(self) -> Path | None:
        """Return where the finished model lies; None: it is not kept."""
        said = self._noted("finished")
        return Path(said["folder"]) if said else None

    def move_finished(self, to: Path) -> bool:
        """Give the finished model a name of its own, which needs no room on a full disk; False: it could not be done."""
        said = self._noted("finished")
        try:
            Path(said["folder"]).rename(to)
        except (OSError, KeyError):
            return False
        self._kept(lambda folder: self._note(folder, "finished", {**said, "folder": str(to.absolute())}))
        return True

    def holds_something(self) -> bool:
        """Whether there is a step to go on from."""
        return self.folder is not None and self.folder.is_dir() and any(p.name not in NO_STEP for p in self.folder.iterdir())

    # How it lies there

    def _due(self, done: int) -> bool:
        return time.monotonic() - self.since >= SECONDS if self.every is None else done % self.every == 0

    def _noted(self, name: str) -> dict[str, Any]:
        return {} if self.folder is None else score_workdir.Unfinished(output=self.place, folder=self.folder).noted(name) or {}

    def _note(self, folder: Path, name: str, value: Mapping[str, Any]) -> None:
        score_workdir.Unfinished(output=self.place, folder=folder).note(name, value)

    def _read(self, name: str, read: Callable[[Path], _T]) -> _T | None:
        """Read a state; None where there is none, or none that is whole, and then it is removed."""
        if self.folder is None or not (self.folder / name).exists():
            return None
        try:
            return read(self.folder / name)
        except training_state.DAMAGE as error:
            _logger.warning("%s is damaged (%s): what it held is done anew", self.folder / name, " ".join(str(error).split()))
            with suppress(OSError):
                (self.folder / name).unlink()
            return None

    def _kept(self, keep: Callable[[Path], _T]) -> _T | None:
        """Keep something; where that fails the fit goes on and keeps nothing any more, so that what little room there is remains."""
        if self.folder is None:
            return None
        try:
            return keep(self.folder)
        except (OSError, OutputError) as error:
            why = str(error) if isinstance(error, OutputError) else (error.strerror or str(error)).lower()
            _logger.warning("what this fit has done is not kept any more, so that it starts anew if it is cut off: %s", why.rstrip("."))
            for path in self.folder.iterdir():
                with suppress(OSError):
                    if path.name not in NO_STEP:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.folder = None
            return None


def workdir_of(output: Path | None, model_name: str) -> Path:
    """Return where a fit keeps what it has done: beside its output, or in the current folder under the name of its model."""
    return Path(f".{model_name}.fit.resume") if output is None else score_workdir.folder_of(output)


def request_in(folder: Path) -> Request | None:
    """Return what lies in a folder; None: nothing, or nothing that can be read."""
    found = score_workdir.Unfinished(output=folder, folder=folder).noted("request")
    try:
        if found and found["format"] == CHECKPOINT_FORMAT:
            return Request(digests=dict(found["digests"]), job=str(found["job"]), tracking=TrackingConfig(**found["tracking"]))
    except (KeyError, TypeError, ValueError):
        pass
    return None


def _name(stage: str) -> str:
    return f"{stage.replace(' ', '-')}.safetensors"


# Takes what is to be done when the process ends.
AtExit = Callable[[Callable[[], None]], object]
# Kinds of errors that the same command may not meet again.
PASSING = (DataError, OutputError, TrackingError)


@contextmanager
def claim_fit(
    place: Path, made_from: Mapping[str, Any], interruption: Interruption, *, needed: bool, at_exit: AtExit | None = None
) -> Iterator[Checkpoint]:
    """Claim a folder for one process: that of the same fit if it was cut off here, or else one that nobody has.

    While others fit under the same name, numbered ones lie beside ``place``. The folder is removed when the block ends, and also after an
    error if there is nothing in it to go on from, or if the same command would meet the error again. With ``at_exit`` it is removed then:
    a process that is killed after its fit has ended and before it could say so has not ended for whoever started it, and will be run
    again. Where no folder can be made, nothing is kept or, if it is ``needed``, that is an OutputError.
    """
    digests = {name: score_workdir.digest_of(value) for name, value in made_from.items()}
    folder, handle = _found(place, digests, needed=needed)
    kept = Checkpoint(place=place, folder=folder, digests=digests, interruption=interruption)
    try:
        yield kept
    except BaseException as error:
        if folder is not None and not _stays(kept, error):
            locks.remove(folder)
        elif isinstance(error, KeyboardInterrupt) and kept.begun:
            raise Interrupted(f"interrupted; what was done is kept in {folder}. Run the same command again to go on.") from None
        raise
    else:
        if folder is not None and at_exit is not None:
            at_exit(partial(_leave, folder, handle))
            handle = None
        elif folder is not None:
            locks.remove(folder)
    finally:
        if handle is not None:
            os.close(handle)


def _leave(folder: Path, handle: int | None) -> None:
    """Remove a folder and let go of its lock."""
    locks.remove(folder)
    if handle is not None:
        os.close(handle)


def _stays(kept: Checkpoint, error: BaseException) -> bool:
    """Whether the folder is of use to another run: it is that of another fit, has steps to go on from, or names an open run."""
    if not kept.begun:
        return kept.earlier() is not None
    passing = not isinstance(error, VaeAnomalyError) or type(error) in PASSING
    return passing and (kept.holds_something() or (kept.run_open and isinstance(error, TrackingError)))


def _found(place: Path, digests: Mapping[str, str], *, needed: bool) -> tuple[Path | None, int | None]:
    """Return the folder to work in and its lock."""
    try:
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            return _claim(place, digests)
    except OutputError as error:
        if needed:
            raise
        _logger.warning("this fit cannot go on if it is cut off: %s", str(error).rstrip("."))
        return None, None


def _claim(place: Path, digests: Mapping[str, str]) -> tuple[Path, int]:
    """Lock the folder that holds the same fit, or a folder that is free, or a new one."""
    numbered = re.compile(rf"{re.escape(place.name)}-\d+")
    beside = [path for path in sorted(place.parent.glob(f"{glob.escape(place.name)}-*")) if numbered.fullmatch(path.name)]
    free: tuple[Path, int] | None = None
    for folder in [place, *beside]:
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
    return free or next(found for found in map(_locked, _names(place)) if found is not None)


def _names(place: Path) -> Iterator[Path]:
    yield place
    yield from (place.with_name(f"{place.name}-{number}") for number in count(2))


def _locked(folder: Path) -> tuple[Path, int] | None:
    handle = _lock(folder)
    return None if handle is None else (folder, handle)


def _lock(folder: Path) -> int | None:
    """Return the lock of a folder; None: another process has it."""
    try:
        return locks.lock(folder)
    except locks.Taken:
        return None
