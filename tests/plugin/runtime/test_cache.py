"""Results that runs over the same model and data share: what is kept, what is dropped, and that nobody can spoil it."""

from __future__ import annotations

import copy
import gc
import random
import threading
import time
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lloydmax
import numpy as np
import pytest
import torch
from conftest import SmallNet
from lloydmax import Cache, compress, hookimpl
from lloydmax.data import unlabelled
from lloydmax.errors import RecipeError
from lloydmax.plan.quantizing import quantize
from lloydmax.runtime.cache import bytes_of, number
from lloydmax.teacher.kept import TeacherOutputs
from lloydmax.teacher.trial import trial
from torch import Tensor, nn


def put(cache: Cache, **sizes: int) -> None:
    """Each name as a result of so many bytes."""
    for name, size in sizes.items():
        cache.put(name, name.upper(), size)


def kept(cache: Cache, names: str) -> str:
    """Those of the names that the cache has."""
    return "".join(name for name in names if cache.find(name) is not None)


def test_a_result_is_made_once_and_hits_are_counted() -> None:
    cache, made = Cache(), []

    def make() -> list[int]:
        made.append(1)
        return [7]

    first, second = (cache.get(("a", 1), make, len) for _ in range(2))
    assert first == [7] and second is first and len(made) == 1
    assert (cache.hits, cache.bytes) == (1, 1)
    cache.get(("a", 2), make, len)
    assert len(made) == 2 and (cache.hits, cache.bytes) == (1, 2), "another key is another result"


def test_the_least_recently_used_result_is_dropped() -> None:
    cache = Cache(limit=3)
    put(cache, a=1, b=1, c=1)
    assert cache.find("a") == "A"
    put(cache, d=1)
    assert kept(cache, "abcd") == "acd" and cache.bytes == 3
    put(cache, e=2)
    assert kept(cache, "abcde") == "de" and cache.bytes == 3, "as many are dropped as it takes"


@pytest.mark.parametrize("limit", [-1, "1GiB", float("nan"), None, True, [1], 10**400])
def test_a_limit_is_a_number_of_bytes(limit: Any) -> None:
    with pytest.raises(RecipeError, match=r"^limit of a lloydmax.Cache must be 0 or more, not [^\n]+$"):
        Cache(limit)
    assert Cache(1e9).limit == 10**9 and not Cache(0).limit


def test_a_result_that_is_asked_for_stays_longest() -> None:
    cache = Cache(limit=20)
    put(cache, a=10)
    for name in range(50):
        assert cache.get("a", lambda: "made again", lambda _: 10) == "A"
        cache.put(name, name, 10)
    assert cache.hits == 50 and cache.bytes == 20


def test_a_result_put_again_counts_once() -> None:
    cache = Cache(limit=10)
    put(cache, a=4, b=4)
    cache.put("a", "other", 6)
    assert cache.bytes == 10 and cache.find("a") == "other" and cache.find("b") == "B"
    cache.put("a", "small", 1)
    assert cache.bytes == 5


def test_a_result_larger_than_the_limit_is_given_but_not_kept() -> None:
    cache = Cache(limit=10)
    put(cache, a=10)
    assert cache.get("large", lambda: "LARGE", lambda _: 11) == "LARGE"
    assert cache.find("large") is None and cache.find("a") == "A" and cache.bytes == 10
    none = Cache(limit=0)
    assert none.get("a", lambda: "A", lambda _: 1) == "A" and none.bytes == 0 and none.find("a") is None


def test_a_failure_is_not_kept() -> None:
    cache = Cache()
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 / 0, lambda _: 1)
    assert cache.get("a", lambda: 2.0, lambda _: 8) == 2.0 and (cache.hits, cache.bytes) == (0, 8)


def test_copies_of_what_holds_a_cache_share_it() -> None:
    cache = Cache()
    holder = copy.deepcopy({"cache": cache, "trials": [cache]})
    assert holder["cache"] is cache and holder["trials"] == [cache]


class Slow:
    """A key that lets other threads run whenever it is looked up."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        time.sleep(1e-4)
        return self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slow) and self.number == other.number


def test_threads_that_share_a_cache_keep_its_accounts() -> None:
    cache, wrong = Cache(limit=30), []
    sizes = {number: 9 + number for number in range(6)}

    def work(seed: int) -> None:
        draw = random.Random(seed)
        try:
            for _ in range(100):
                number = draw.randrange(6)
                assert cache.get(Slow(number), lambda n=number: (n, object()), lambda made: sizes[made[0]])[0] == number
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.bytes == sum(size for number, size in sizes.items() if cache.find(Slow(number)) is not None)
    assert 0 < cache.bytes <= cache.limit


def test_threads_that_make_the_same_result_at_once_keep_it_once() -> None:
    cache, both = Cache(), threading.Barrier(2)

    def make() -> object:
        both.wait(10)
        return object()

    threads = [threading.Thread(target=cache.get, args=("a", make, lambda _: 5)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.bytes == 5 and cache.find("a") is not None


# What runs hand out


LEARNING = {
    "quantize": [{"layers": "all", "centroids": 4, "importance": "fisher"}],
    "trainable": ["all"],
    "recover": [{"step": "distill", "epochs": 2, "batch_size": 16, "codes": "learn", "codes_lr": 3e-2}],
}


class Spoiler:
    """A listener that writes into every codebook that it is told of."""

    @hookimpl
    def lloydmax_parameter_fitted(self, codebook: lloydmax.Codebook) -> None:
        codebook.centroids.zero_()
        codebook.codes.zero_()


@pytest.mark.parametrize("recipe", [LEARNING, LEARNING | {"recover": []}], ids=["learned", "fitted"])
def test_a_run_that_writes_into_its_results_spoils_no_later_run(
    small_net: SmallNet, pictures: Tensor, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    def run(name: str, cache: Cache | None, *listeners: object) -> lloydmax.Result:
        result = compress(small_net, recipe, pictures, progress=False, cache=cache, listeners=listeners)
        result.save(tmp_path / name)
        return result

    cache = Cache()
    run("alone", None)
    first = run("first", cache)
    with torch.no_grad():
        for tensor in first.model.state_dict().values():
            tensor.zero_()
    run("spoilt", cache, Spoiler())
    run("last", cache)
    assert cache.hits > 10
    files = {name: (tmp_path / name).read_bytes() for name in ("alone", "first", "spoilt", "last")}
    assert files["alone"] == files["first"] == files["last"] != files["spoilt"]


def test_a_plain_loop_fits_the_second_time_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, data, cache = nn.Sequential(nn.Linear(80, 80), nn.ReLU(), nn.Linear(80, 10)), torch.randn(32, 80), Cache()
    fitted: list[str] = []

    def counted(parameter: Any, *given: Any) -> Any:
        fitted.append(parameter.name)
        return quantize(parameter, *given)

    monkeypatch.setattr("lloydmax.fitting.fit.quantize", counted)
    recipe = {"quantize": [{"layers": "all", "centroids": 16}]}
    first, second = (compress(model, recipe, data, cache=cache, progress=False) for _ in range(2))
    assert fitted == ["0.weight", "2.weight"]
    assert first.report.kl == second.report.kl


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# What counts


def test_memory_counts_once_and_with_what_holds_it() -> None:
    x = torch.zeros(1000)
    assert 4000 <= bytes_of(x) < 4200
    assert 4000 <= bytes_of([x, x[:10], x.view(10, 100), {"a": (x.numpy(),)}]) < 5500
    assert 8000 <= bytes_of([x, x.clone()]) < 9000
    assert bytes_of(nn.Linear(100, 100)) > 40400, "a model, too"
    assert bytes_of(partial(torch.add, x)) >= 4000 and bytes_of(x.to_sparse()) > 0
    assert bytes_of([object, torch.add, bytes_of]) < 500, "code does not count"


def test_what_refers_to_itself_is_counted(tmp_path: Path) -> None:
    ring: list[Any] = [torch.zeros(100)]
    ring.append(ring)
    assert 400 <= bytes_of(ring) < 1000
    np.save(tmp_path / "x.npy", np.zeros(100_000, np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert bytes_of([mapped, mapped[5:]]) < mapped.nbytes / 100, "a file of the caller's"
    assert bytes_of(np.array(["a" * 1000, None], dtype=object)) > 1000


def test_numbers_are_of_one_object_and_hold_nothing() -> None:
    made = [torch.zeros(1) for _ in range(3)]
    numbers = [number(one) for one in made]
    assert len(set(numbers)) == 3 and [number(one) for one in made] == numbers
    gone = weakref.ref(made[0])
    made.clear()
    gc.collect()
    assert gone() is None
    assert number(torch.zeros(1)) not in numbers


RECOVERED = {
    "quantize": [{"layers": "all", "centroids": 4}],
    "trainable": ["all"],
    "recover": [{"step": "distill", "steps": 2, "batch_size": 16}],
}


def test_the_limit_holds_over_runs_with_data_of_their_own(small_net: SmallNet) -> None:
    cache = Cache(limit=200_000)
    for seed in range(5):
        data = torch.randn(32, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
        compress(small_net, RECOVERED, data, cache=cache, progress=False)
        assert data.nbytes < cache.bytes <= cache.limit
    assert cache.bytes == sum(size for _, size in cache._kept.values())


def test_models_and_dropped_data_are_let_go() -> None:
    cache, gone = Cache(limit=300_000), []
    for seed in range(3):
        torch.manual_seed(seed)
        model, data = SmallNet().eval(), torch.randn(64, 3, 12, 12)
        compress(model, RECOVERED, data, cache=cache, progress=False)
        gone.append((weakref.ref(model), weakref.ref(data)))
    del model, data
    gc.collect()
    assert [model() for model, _ in gone] == [None] * 3
    assert [data() is None for _, data in gone] == [True, True, False]
    cache.clear()
    gc.collect()
    assert gone[2][1]() is None and cache.bytes == 0


def test_files_of_dropped_outputs_go_when_no_run_holds_them(
    small_net: SmallNet, pictures: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lloydmax.teacher.kept.MEMORY_LIMIT", 0)
    cache = Cache()
    source = unlabelled(pictures, small_net)
    order, outputs = torch.arange(len(source)), trial(small_net, source)
    held = TeacherOutputs.keep(small_net, source, order, outputs, tmp_path, cache)
    assert held is not None
    before = held.rows(order, torch.device("cpu"))[0]
    cache.clear()
    gc.collect()
    assert len([*tmp_path.iterdir()]) == 1
    assert torch.equal(held.rows(order, torch.device("cpu"))[0], before)
    del held
    gc.collect()
    assert not [*tmp_path.iterdir()]


def test_threads_that_share_a_small_cache_get_what_they_get_alone(
    small_net: SmallNet, pictures: Tensor, tmp_path: Path
) -> None:
    def work(name: str, cache: Cache | None) -> None:
        compress(small_net, RECOVERED, pictures, cache=cache, progress=False).save(tmp_path / name)

    work("alone", None)
    for limit in (1 << 30, 400_000):
        cache = Cache(limit)
        threads = [threading.Thread(target=work, args=(f"{limit}-{n}", cache)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cache.bytes <= limit
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1 and len([*tmp_path.iterdir()]) == 7
