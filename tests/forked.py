"""Command lines, each in a process of its own that is forked from one that has imported everything.

An import of torch, MLflow and scikit-learn takes longer than most commands. Whoever runs several pays for it once.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Both streams of a command go to files, so that nothing of it is lost and none waits for a reader.
_FORKING = """
import importlib, json, os, runpy, signal, sys
from tempfile import TemporaryFile
from vae_anomaly.tracking import store

def text(file):
    file.seek(0)
    return file.read().decode()

commands, modules, seconds, said = *json.load(sys.stdin), []
for name in modules:
    if name.partition(".")[0] == "mlflow":
        store.import_mlflow()
    importlib.import_module(name)
for words, folder in commands:
    with TemporaryFile() as out, TemporaryFile() as err:
        process = os.fork()
        if process == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os.chdir(folder)
            signal.alarm(seconds)
            sys.argv = ["vae-anomaly", *words]
            runpy.run_module("vae_anomaly", run_name="__main__")
            sys.exit("it has not left by itself")
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        said.append((code, text(out), text(err)))
json.dump(said, sys.stdout)
"""
SCORING = ("vae_anomaly.cli.app", "vae_anomaly.workflow.score")
TRACKING = (
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "vae_anomaly.tracking.pyfunc",
    "vae_anomaly.workflow.fit",
    "torch._dynamo",  # which every optimizer asks for
    *SCORING,
)


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def commands(
    many: Sequence[tuple[Sequence[str], Path]],
    *,
    importing: Sequence[str] = SCORING,
    environment: Mapping[str, str] | None = None,
    seconds: int = 600,
) -> list[Said]:
    """Run the words of each command in its folder, one after the other, each for at most so many seconds.

    Where nothing can be forked the test is skipped.
    """
    if not hasattr(os, "fork"):
        pytest.skip("the processes are forked")
    asked = json.dumps(([(list(words), str(folder)) for words, folder in many], list(importing), seconds))
    done = subprocess.run(
        [sys.executable, "-c", _FORKING],
        input=asked,
        env={**os.environ, **(environment or {}), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [Said(*one) for one in json.loads(done.stdout)]
