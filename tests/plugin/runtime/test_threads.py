"""Work that several threads share out: the same results in the same order, and the first failure."""

from __future__ import annotations

import threading
import time

import lloydmax
import pytest
import torch
from lloydmax.format import coding
from lloydmax.runtime.threads import shared_out
from torch import nn


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_share_what_is_worth_it_and_results_keep_their_order(two_threads):
    def work(item):
        time.sleep(0.01)
        return item, threading.get_ident(), torch.is_inference_mode_enabled(), torch.zeros(()).dtype

    for worth, threads in ((1, 2), (1000, 1)):
        found = shared_out(work, list(range(8)), lambda item: item, worth)
        assert [one[0] for one in found] == list(range(8))
        assert len({one[1] for one in found}) == threads


def test_the_largest_begin_first_and_the_first_failure_in_order_is_raised(two_threads):
    begun = []

    def work(item):
        begun.append(item)
        time.sleep(0.01)
        if item in (3, 5):
            raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 3"):
        shared_out(work, list(range(8)), lambda item: item, 1)
    assert begun.index(7) < 3 and begun.index(0) > 4


def test_nothing_to_do_is_done():
    assert shared_out(str, [], len, 0) == []


def test_files_are_the_same_by_one_thread_and_by_two(two_threads, tmp_path, monkeypatch):
    def made():
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Linear(16, 16) for _ in range(5)))

    result = lloydmax.compress(made(), {"quantize": [{"layers": "all", "centroids": 4}]}, progress=False)
    files = []
    for worth in (1, 1 << 30):
        monkeypatch.setattr(coding, "WORTH_THREADS", worth)
        result.save(tmp_path / str(worth))
        files.append((tmp_path / str(worth)).read_bytes())
        assert lloydmax.verify(tmp_path / str(worth)).bytes == len(files[-1])
        loaded = lloydmax.load(tmp_path / "1", made())
        assert torch.equal(loaded(torch.ones(2, 16)), result.model(torch.ones(2, 16)))
    assert files[0] == files[1]
