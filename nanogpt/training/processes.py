"""The processes that train one model together: each computes the gradient of its share of every batch.

All make the same update with the mean gradient, so weights and what the optimizers keep are equal everywhere and are
not sent. The first process (rank 0) decides: it hands out the trainings, and says at each record whether all go on.
A process alone is in no group: torch.distributed is not begun, and nothing here costs it anything.

What the first process says goes through the CPU (gloo), gradients by the device's own way (nccl on a GPU). So a process
that waits for the first one waits for a socket, and learns at once when that one has ended.
"""

from __future__ import annotations

import contextlib
import time
import uuid
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanogpt.errors import UserError, one_line
from nanogpt.model.launch import Launch

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

LONGEST_WAIT = timedelta(minutes=30)
"""For the others, of whom none has ended: the first one may score, log and register for long."""
SIGNS_OF_LOSS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""One of these is in each error of a collective operation that a process which has ended leaves behind."""
SECONDS_BETWEEN_LOOKS = 0.02
DDP_EAGER_CALLS = 11
"""Updates before a step of several processes is recorded: DistributedDataParallel measures itself in the first ten."""


def world_size() -> int:
    """Say how many processes train together; 1 where there is no group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Say which of them this one is."""
    return dist.get_rank() if world_size() > 1 else 0


@contextlib.contextmanager
def joined(launch: Launch | None) -> Iterator[None]:
    """Have this process in the group of those that it was launched with, inside the block; alone it is in none.

    UserError where another one has ended before its time. After an error the group is left as it is: the others see
    this process's sockets close when it ends, and taking a group of GPUs down in order would wait for them.
    """
    if launch is None or not launch.has_others:
        yield
        return
    try:
        on_gpus = torch.cuda.is_available()
        if on_gpus:
            torch.cuda.set_device(launch.local_rank % torch.cuda.device_count())    # "cuda" means this one from now on
        store = common_store(launch)
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=LONGEST_WAIT, store=store,
                                rank=launch.rank, world_size=launch.world_size)
        yield
        dist.destroy_process_group()
    except (RuntimeError, dist.DistError) as error:
        if not isinstance(error, dist.DistError) and not any(sign in str(error) for sign in SIGNS_OF_LOSS):
            raise
        raise UserError("every process must train to the end: torchrun --max-restarts begins again from the last "
                        f"state, got a connection of process {launch.rank} that was lost ({one_line(str(error))})"
                        ) from error


def common_store(launch: Launch) -> Store:
    """Find a place in the launcher's store that all processes of this start, and none of an earlier one, share.

    The store outlives a restart, and a process that reads where its dead forerunners listened finds nobody. What the
    launcher counts differs between hosts. So each process says hello with a word of its own, and the first one answers
    each word with the name of the place until all have come there.
    """
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=LONGEST_WAIT))
    own = uuid.uuid4().hex
    if launch.is_first:
        missing = set(range(1, launch.world_size))
        while missing:
            for other in sorted(missing):
                if store.check([f"hello/{other}"]):
                    store.set(f"place/{store.get(f'hello/{other}').decode()}", own)
            time.sleep(SECONDS_BETWEEN_LOOKS)
            missing = {other for other in missing if not store.check([f"here/{own}/{other}"])}
        return dist.PrefixStore(own, store)  # type: ignore[attr-defined]
    store.set(f"hello/{launch.rank}", own)
    while not store.check([f"place/{own}"]):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    place = store.get(f"place/{own}").decode()
    store.set(f"here/{place}/{launch.rank}", "")
    return dist.PrefixStore(place, store)  # type: ignore[attr-defined]


def handed_out(work: Any = None) -> Any:
    """Give all processes what the first one hands out; the others' own `work` is of no account."""
    if world_size() == 1:
        return work
    place = [work]
    dist.broadcast_object_list(place, src=0, device=torch.device("cpu"))
    return place[0]


def all_go_on(word: bool = True) -> bool:
    """Say in all processes what the first one says; where all are asked, none is ahead by an update."""
    if world_size() == 1:
        return word
    said = torch.tensor([word], dtype=torch.uint8)
    dist.broadcast(said, src=0)
    return bool(said)


def mean_of_all(values: Tensor) -> Tensor:
    """Average a tensor over the processes: the same bits in all of them, on the CPU; alone it stays as it is."""
    if world_size() == 1:
        return values
    total = values.to("cpu", copy=True)
    dist.all_reduce(total)
    return total / world_size()


def own_share(rows_SB: Tensor) -> Tensor:
    """Cut this process's rows out of each batch. ValueError where the processes' shares would not be equal."""
    count, rows = world_size(), rows_SB.size(1)
    if rows % count:
        raise ValueError(f"a batch must have a multiple of {count} rows, got {rows}")
    return rows_SB.chunk(count, dim=1)[rank()]


def with_mean_gradients(model: nn.Module, stream: torch.cuda.Stream | None = None) -> nn.Module:
    """Wrap a model so that backward leaves the mean gradient of all processes.

    `stream` is the one on which the step will be recorded: what accumulates the gradients has to belong to it.
    Buffers are constants and are not sent.
    """
    with torch.cuda.stream(stream) if stream else contextlib.nullcontext(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`broadcast_buffers`")    # torch 2.13 renames it
        wrapped = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
    if stream:
        torch.cuda.current_stream().wait_stream(stream)
    return wrapped
