"""A real MLflow server on this machine, that can be stopped and started again in the same folder."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

SECONDS = 240  # a busy machine imports MLflow for a minute


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def server(folder: Path, port: int) -> Iterator[str]:
    """Run a server with its store in ``folder`` for the length of a block, from when it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # Nothing here asks for a job of MLflow's, and its runner would be some processes more that import MLflow.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, 15)
            process.wait(timeout=30)


def _wait_for(uri: str) -> None:
    until = time.monotonic() + SECONDS
    while True:
        try:
            with urlopen(f"{uri}/health", timeout=5):  # noqa: S310  # our own server on this machine
                return
        except OSError:  # not there yet, or too busy to answer
            if time.monotonic() > until:
                raise
            time.sleep(0.3)
