"""Recovery on several processes, as ``torchrun`` or ``accelerate launch`` starts them.

Every process runs the same program on a replica of its own. Fitting is deterministic, so all of them come to the same
codebooks; the teacher's outputs, each batch of the training, and what is measured are shared out. Process 0 writes.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lloydmax.errors import RecoveryError

_TIMEOUT = datetime.timedelta(minutes=10)


def size() -> int:
    """Number of processes that work together; 1 outside of :func:`together`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if size() > 1 else 0


def writes() -> bool:
    """Whether this process is the one that writes files: the first that the launcher started."""
    return rank() == 0 if size() > 1 else os.environ.get("RANK", "0") == "0"


@contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Join the processes that the launcher started; alone, or in a group that exists already, nothing is done.

    Args:
        device: of the model in this process; CUDA devices talk through NCCL, all others through Gloo.

    Raises:
        RecoveryError: another process ended, or did not answer within ten minutes.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ
    own = launched and dist.is_available() and not dist.is_initialized()
    try:
        if own:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
        yield
        if own:
            dist.barrier()  # none leaves while another one still listens
    except (dist.DistError, RuntimeError) as error:
        if size() > 1 and _is_connection(error):
            raise RecoveryError(
                f"process {rank()} of {size()} lost the others: {str(error).splitlines()[0]}. One of them ended; its "
                "own message says why"
            ) from error
        raise
    finally:
        if own and dist.is_initialized():
            dist.destroy_process_group()


def share(indices: Tensor) -> Tensor:
    """The part of ``indices`` ``(N,)`` that this process works on; the parts differ by one element at most."""
    return indices.tensor_split(size())[rank()]


def exchange(rows: Tensor, device: torch.device) -> None:
    """Fill in, in place, the rows ``(N, ...)`` that other processes worked on: each has its :func:`share` of them."""
    if size() > 1:
        for number, part in enumerate(rows.tensor_split(size())):
            sent = part.to(device).contiguous()
            dist.broadcast(sent, number)
            part.copy_(sent)


def summed(values: Sequence[float], device: torch.device) -> list[float]:
    """Each value, summed over the processes in float64."""
    if size() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    found: list[float] = total.tolist()
    return found


def first(told: bytes, device: torch.device) -> bytes:
    """What the first process tells; of the same length in all of them."""
    if size() == 1:
        return told
    sent = torch.tensor(list(told), dtype=torch.uint8, device=device)
    dist.broadcast(sent, 0)
    return bytes(sent.tolist())


def replicated(student: nn.Module) -> nn.Module:
    """The student, whose gradients are then averaged over the processes; alone: itself."""
    if size() == 1:
        return student
    return nn.parallel.DistributedDataParallel(student, find_unused_parameters=True)


def _is_connection(error: Exception) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("connection", "timed out", "timeout", "gloo", "nccl", "peer"))
