"""Recovery on several processes, as ``torchrun`` or ``accelerate launch`` starts them.

Every process runs the same program on a replica of its own. Fitting is deterministic, so all of them come to the same
codebooks; the teacher's outputs, each batch of the training, and what is measured are shared out, and put together in
an order that does not depend on the number of processes. Process 0 writes.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from lloydmax.errors import RecoveryError

_TIMEOUT = datetime.timedelta(minutes=10)
_groups = count()


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
            store, number, processes = next(dist.rendezvous("env://", timeout=_TIMEOUT))
            store = dist.PrefixStore(f"lloydmax {next(_groups)}", store)  # the launcher's remembers earlier groups
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=_TIMEOUT, store=store, rank=number, world_size=processes)
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


def share(indices: Tensor, batch: int = 1) -> Tensor:
    """The part of ``indices`` ``(N,)`` that this process works on: whole batches, so that these are what they are in
    one process; the parts differ by one batch at most."""
    start, end = _ends(len(indices), batch)[rank()]
    return indices[start:end]


def exchange(rows: Tensor, device: torch.device, batch: int = 1) -> None:
    """Fill in, in place, the rows ``(N, ...)`` that other processes worked on: each has its :func:`share` of them."""
    if size() > 1:
        for number, (start, end) in enumerate(_ends(len(rows), batch)):
            sent = rows[start:end].to(device).contiguous()
            dist.broadcast(sent, number)
            rows[start:end].copy_(sent)


def gathered(rows: Tensor, device: torch.device) -> Tensor:
    """The rows ``(n, width)`` of all processes, in their order, float64 on the CPU; each may have another number of
    them, none too, then of any width."""
    rows = rows.double().cpu()
    if size() == 1:
        return rows
    sizes = [each.tolist() for each in every(torch.tensor([*rows.shape], device=device))]
    width = max(each[1] for each in sizes if each[0]) if any(each[0] for each in sizes) else 0
    most = max(each[0] for each in sizes)
    sent = torch.zeros(most, width, dtype=torch.float64)
    sent[: len(rows)] = rows[:, :width] if len(rows) else 0.0
    found = every(sent.to(device))
    return torch.cat([one[:count].cpu() for one, (count, _) in zip(found, sizes, strict=True)])


class Sums:
    """Sums of what all processes add, one after the other in the order of their shares: the same for any number of
    processes.

    Args:
        count: how many sums.
    """

    def __init__(self, count: int) -> None:
        self._count, self._rows = count, list[list[float]]()

    def add(self, values: Sequence[float], at: int = 0) -> None:
        """Add to some of them, from number ``at`` on."""
        row = [0.0] * self._count
        row[at : at + len(values)] = values
        self._rows.append(row)

    def totals(self, device: torch.device) -> list[float]:
        """The sums, in float64."""
        rows = torch.tensor(self._rows, dtype=torch.float64).view(-1, self._count)
        totals = [0.0] * self._count
        for row in gathered(rows, device).tolist():
            totals = [total + one for total, one in zip(totals, row, strict=True)]
        return totals


def every(sent: Tensor) -> list[Tensor]:
    """What each process sends, of one shape and dtype, in their order; alone: that itself."""
    if size() == 1:
        return [sent]
    found = [torch.empty_like(sent) for _ in range(size())]
    dist.all_gather(found, sent)
    return found


def first(told: bytes, device: torch.device) -> bytes:
    """What the first process tells; of the same length in all of them."""
    if size() == 1:
        return told
    sent = torch.tensor(list(told), dtype=torch.uint8, device=device)
    dist.broadcast(sent, 0)
    return bytes(sent.tolist())


def alike(told: bytes, device: torch.device) -> bool:
    """Whether all processes tell the same; of the same length in all of them."""
    return (
        len({bytes(each.tolist()) for each in every(torch.tensor(list(told), dtype=torch.uint8, device=device))}) == 1
    )


def take_over(tensors: Sequence[Tensor]) -> None:
    """Make them, in place, what they are in the first process."""
    if size() > 1:
        for tensor in tensors:
            sent = tensor.contiguous()
            dist.broadcast(sent, 0)
            if sent is not tensor:
                tensor.copy_(sent)


def _ends(count: int, batch: int) -> list[tuple[int, int]]:
    """Start and end of each process's share."""
    batches = -(-count // batch)
    edges = [min(count, batch * (batches * number // size())) for number in range(size() + 1)]
    return list(pairwise(edges))


def _is_connection(error: Exception) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("connection", "timed out", "timeout", "gloo", "nccl", "peer"))
