"""Work on several things at once, by as many threads as torch has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from lloydmax.runtime.modes import own_modes

T = TypeVar("T")
R = TypeVar("R")


def shared_out(work: Callable[[T], R], items: Sequence[T], size: Callable[[T], int], worth: int) -> list[R]:
    """What ``work`` gives for each item, in their order; in the modes of all work.

    Args:
        work: must not care what else is done at the same time, and is worth it where it leaves Python to others.
        items: to work on; the largest begin first.
        size: of an item.
        worth: sizes that all must have together for more than one thread.

    Raises:
        Exception: what ``work`` raises for the first item that fails; smaller ones need not be begun then.
    """
    sizes = [size(item) for item in items]
    threads = min(torch.get_num_threads(), len(items)) if sum(sizes) >= worth else 1
    if threads <= 1:
        return [work(item) for item in items]

    @own_modes()
    def alone(item: T) -> R:
        return work(item)

    pool = ThreadPoolExecutor(threads)
    try:
        order = sorted(range(len(items)), key=lambda place: -sizes[place])
        begun = {place: pool.submit(alone, items[place]) for place in order}
        return [begun[place].result() for place in range(len(items))]
    finally:
        pool.shutdown(cancel_futures=True)
