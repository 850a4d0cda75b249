"""A fit in several processes, as torchrun starts them: process 0 fits, the others help it to train.

Process 0 alone reads, calibrates, logs and registers. Before each training it sends networks, rows and settings to the others; then every
process computes the gradients of its share of each minibatch, and all of them add up the gradients (data parallelism, as in
``torch.nn.parallel.DistributedDataParallel``, whose buckets are one here: the gradient of all networks is one tensor).
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from vae_anomaly.config import TrainConfig
from vae_anomaly.errors import ConfigError
from vae_anomaly.messages import one_line

if TYPE_CHECKING:  # the command line asks for ``processes`` before it may load any of these
    import torch
    from torch import Tensor

    from vae_anomaly.model.prediction import Predictors
    from vae_anomaly.model.scaling import Views
    from vae_anomaly.model.training import Alone, TrainingData, TrainingState
    from vae_anomaly.model.vae import Vae
    from vae_anomaly.schema.encoding import Batch

_logger = logging.getLogger(__name__)
# What torchrun sets in every process that it starts.
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# The others wait while process 0 reads and calibrates, which takes hours for large data.
_PATIENCE = timedelta(days=30)
# How gloo and NCCL say that a process has gone.
_GONE = re.compile("clos|reset|abort|timed out|timeout|broken pipe|remote process|peer", re.IGNORECASE)


def processes() -> tuple[int, int]:
    """Return the number of this process and how many there are; (0, 1) unless torchrun has started several."""
    given = {name: os.environ.get(name, "") for name in _VARIABLES}
    if not all(given.values()):
        return 0, 1
    try:
        rank, size = int(given["RANK"]), int(given["WORLD_SIZE"])
    except ValueError:
        rank = size = -1
    if not 0 <= rank < size:
        raise ConfigError(
            f"RANK={given['RANK']} and WORLD_SIZE={given['WORLD_SIZE']} are not what torchrun sets; unset them or use torchrun."
        )
    return rank, size


@contextmanager
def join_processes(device: str) -> Iterator["Alone | ProcessGroup"]:
    """Join the processes that torchrun has started; without them, the team is this process alone.

    Raises ConfigError where they do not find each other.
    """
    from vae_anomaly.model.training import ALONE

    rank, size = processes()
    if size == 1:
        yield ALONE
        return
    import torch.distributed as dist

    try:
        dist.init_process_group(_backend(device), timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"the {size} processes that torchrun started do not find each other: {one_line(error)}") from error
    group = ProcessGroup(rank=rank, size=size)
    try:
        yield group
    finally:
        group.release()
        dist.destroy_process_group()


def _backend(device: str) -> str:
    """Return the backends for a device; with a GPU for each process of this machine, that one becomes the current GPU."""
    import torch

    from vae_anomaly.model.training import device_of

    if device_of(device).type != "cuda" or device not in {"auto", "cuda"}:
        return "gloo"
    here, count = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])), torch.cuda.device_count()
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % count)
    return "cpu:gloo,cuda:nccl" if here <= count else "gloo"  # NCCL refuses two processes on one GPU


@dataclass(kw_only=True, eq=False)
class ProcessGroup:
    """The processes of a fit, a ``model.training.Team``; ``busy`` while the others are in a training.

    Raises KeyboardInterrupt where one of them has ended: completed work is kept.
    """

    rank: int
    size: int
    busy: bool = False

    @contextmanager
    def training(
        self, vae: "Vae", data: "TrainingData", config: TrainConfig, generator: "torch.Generator", start: "TrainingState | None"
    ) -> Iterator[None]:
        """Send a training to the others, which begin it."""
        self.busy = True  # from now on they wait for its parts and not to be released
        parameters = [p.detach().cpu() for p in vae.parameters()]
        tensors = {**_fields(data.batch), **_fields(data.views), **{f"p{i}": p for i, p in enumerate(parameters)}}
        if data.views.predictors is not None:
            tensors |= {f"predictors.{name}": tensor for name, tensor in _fields(data.views.predictors).items()}
        made = {"nets": len(data.rows), "layout": vae.layout, "model": vae.settings, "train": config, "unseen": data.unseen, "start": start}
        made |= {"rows": list(data.rows), "generator": generator.get_state()}
        self._broadcast([{**made, "tensors": {name: (t.shape, t.dtype) for name, t in tensors.items()}}])
        for tensor in tensors.values():
            self._send(tensor)
        yield
        self.busy = False

    def add(self, values: "Tensor") -> "Tensor":
        """Return the sum of ``values`` over all processes."""
        import torch.distributed as dist

        values = values.contiguous()
        with together():
            dist.all_reduce(values)
        return values

    def release(self) -> None:
        """Let the others end; in a training they notice by themselves that this process ends."""
        if self.rank == 0 and not self.busy:
            with suppress(KeyboardInterrupt):
                self._broadcast([None])

    def help(self) -> int:
        """Take part in every training that process 0 begins, until it releases this process; return how many there were."""
        from vae_anomaly.model.training import device_of, fit_weights

        count = 0
        while (made := self._broadcast([None])) is not None:
            vae, data, generator = self._received(made)
            device = device_of(made["train"].device)
            fit_weights(vae.to(device), data.to(device), made["train"], generator, start=made["start"], team=self)
            count += 1
        return count

    def _received(self, made: Mapping[str, Any]) -> "tuple[Vae, TrainingData, torch.Generator]":
        import torch

        from vae_anomaly.model.prediction import Predictors
        from vae_anomaly.model.scaling import VIEW_TENSORS, Views
        from vae_anomaly.model.training import TrainingData
        from vae_anomaly.model.vae import Vae
        from vae_anomaly.schema.encoding import Batch

        tensors = {name: self._receive(shape, dtype) for name, (shape, dtype) in made["tensors"].items()}
        vae = Vae(made["nets"], made["layout"], made["model"], None)
        for i, parameter in enumerate(vae.parameters()):
            parameter.data = tensors[f"p{i}"]
        cells = {name: tensors[name] for name in ("numeric", "codes", "observed")}
        batch, predictors = Batch(**cells, past=tensors.get("past")), None
        if batch.past is not None:
            predictors = Predictors(**{name: tensors[f"predictors.{name}"] for name in Predictors.__slots__})
        views = Views(**{name: tensors[name] for name in VIEW_TENSORS}, predictors=predictors)
        generator = torch.Generator()
        generator.set_state(made["generator"])
        rows = made["rows"]
        return vae, TrainingData(batch=batch, views=views, rows=rows, validation=rows, unseen=made["unseen"]), generator

    def _broadcast(self, objects: list[Any]) -> Any:
        import torch
        import torch.distributed as dist

        with together():
            dist.broadcast_object_list(objects, src=0, device=torch.device("cpu"))
        return objects[0]

    def _send(self, tensor: "Tensor") -> None:
        import torch.distributed as dist

        with together():
            dist.broadcast(_as_bytes(tensor.contiguous().cpu()), src=0)

    def _receive(self, shape: "torch.Size", dtype: "torch.dtype") -> "Tensor":
        import torch
        import torch.distributed as dist

        tensor = torch.empty(shape, dtype=dtype)
        with together():
            dist.broadcast(_as_bytes(tensor), src=0)
        return tensor


@contextmanager
def together() -> Iterator[None]:
    """Raise KeyboardInterrupt where another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if not _GONE.search(str(error)):
            raise
        _logger.error("another process of this fit has ended: %s", one_line(error))  # noqa: TRY400  # one line
        raise KeyboardInterrupt from error


def _as_bytes(tensor: "Tensor") -> "Tensor":
    """Return the memory of a contiguous tensor: bytes of any type can be sent."""
    import torch

    return tensor.view(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)


def _fields(of: "Batch | Views | Predictors") -> "dict[str, Tensor]":
    """Return the tensors of a value by name."""
    return {name: tensor for name in type(of).__slots__ if hasattr(tensor := getattr(of, name), "dtype")}
