"""autotune of Intel Neural Compressor over codebooks."""

from __future__ import annotations

import copy
import gc
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import lloydmax
import numpy as np
import pytest
import torch
from lloydmax.integrations.inc import CodebookConfig, algorithm
from lloydmax.integrations.inc import tuning as tuning_module
from lloydmax.teacher.kept import TeacherOutputs
from lloydmax_strategies.kmeans import KMeans
from neural_compressor.common.base_tuning import Sampler
from neural_compressor.torch.quantization import RTNConfig, TuningConfig, autotune, get_all_config_set
from torch import Tensor, nn

pytest.importorskip("neural_compressor")


RECOVER = [{"step": "distill", "epochs": 1, "batch_size": 32, "lr": 0.01}]


class Metric:
    """An eval_fn: the given values in turn, the outputs of every model noted."""

    def __init__(self, pictures: Tensor, *values: Any) -> None:
        self.pictures, self.values, self.outputs = pictures, iter(values), list[Tensor]()

    def __call__(self, model: nn.Module) -> Any:
        with torch.no_grad():
            self.outputs.append(model(self.pictures))
        return next(self.values)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Warnings of a test come within it, and no cache outlives its tuning run."""
    yield
    gc.collect()
    assert tuning_module._live_cache is None or tuning_module._live_cache() is None


def feed(pictures: Tensor) -> Callable[[nn.Module], None]:
    def calibrate(model: nn.Module) -> None:
        with torch.no_grad():
            for batch in pictures.split(32):
                model(batch)

    return calibrate


@pytest.mark.filterwarnings("ignore:no configuration reached")
@pytest.mark.parametrize("reproducible", [True, False])
def test_the_best_model_is_the_one_that_was_measured(
    reproducible: bool, small_net: nn.Module, pictures: Tensor
) -> None:
    def shuffled(model: nn.Module) -> None:
        with torch.no_grad():
            order = torch.randperm(len(pictures)) if reproducible else np.random.permutation(len(pictures))
            for batch in pictures[order].split(32):
                model(batch)

    metric = Metric(pictures, 1.0, 0.5, 0.8, 0.7)
    config = CodebookConfig(centroids=[2, 3, 4], trainable="all", recover=RECOVER)
    found = autotune(small_net, TuningConfig(config_set=[config]), eval_fn=metric, run_fn=shuffled)
    assert max(book.k for book in lloydmax.codebooks(found).values()) == 3
    assert torch.equal(found(pictures), metric.outputs[2])
    assert not torch.equal(metric.outputs[1], metric.outputs[2])
    assert not lloydmax.codebooks(small_net)


@pytest.mark.filterwarnings("ignore:no configuration reached")
def test_fits_and_teacher_outputs_are_reused(
    small_net: nn.Module, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"fit": 0, "teacher": 0}

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(KMeans, "fit", counted("fit", KMeans.fit))
    monkeypatch.setattr(TeacherOutputs, "__init__", counted("teacher", TeacherOutputs.__init__))
    config = CodebookConfig(centroids=4, trainable="all", recover=[{**RECOVER[0], "held_out": 0.1}])
    config.set_local("head.2", CodebookConfig(centroids=[2, 3]))
    other = CodebookConfig(centroids=4, recover=[{**RECOVER[0], "held_out": 0.1, "lr": 1e-4}])
    metric = Metric(pictures, 1.0, 0.6, 0.7, 0.5)
    autotune(small_net, TuningConfig(config_set=[config, other]), eval_fn=metric, run_fn=feed(pictures))
    assert calls["fit"] == 5 + 1 + 1
    assert calls["teacher"] == 2


def test_tuned_outputs_are_those_of_a_plain_quantize(small_net: nn.Module, pictures: Tensor) -> None:
    from neural_compressor.torch.quantization import quantize

    config = {"trainable": "all", "recover": RECOVER}
    wanted = quantize(copy.deepcopy(small_net), CodebookConfig(centroids=3, **config), run_fn=feed(pictures))
    tuning = TuningConfig(config_set=CodebookConfig(centroids=[2, 3], **config))
    found = autotune(small_net, tuning, eval_fn=Metric(pictures, 1.0, 0.5, 1.0), run_fn=feed(pictures))
    assert torch.equal(found(pictures), wanted(pictures))


def test_a_reached_goal_says_nothing(small_net: nn.Module, pictures: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = CodebookConfig(centroids=[16, 32])
        found = autotune(small_net, TuningConfig(config_set=[config]), eval_fn=Metric(pictures, 1.0, 0.5, 1.0))
        gc.collect()
    assert max(book.k for book in lloydmax.codebooks(found).values()) == 32


@pytest.mark.parametrize("last_is_best", [True, False])
def test_a_missed_goal_is_a_warning(last_is_best: bool, small_net: nn.Module, pictures: Tensor) -> None:
    values = (0.5, 0.6) if last_is_best else (0.6, 0.5)
    config = CodebookConfig(centroids=[16, 32])
    with pytest.warns(UserWarning, match=r"goal of 0\.99: the best of 2 is 0\.6; autotune returns that model"):
        found = autotune(small_net, TuningConfig(config_set=[config]), eval_fn=Metric(pictures, 1.0, *values))
        gc.collect()
    assert found is not None


def test_duplicates_still_give_a_model(small_net: nn.Module, pictures: Tensor) -> None:
    tuning = TuningConfig(config_set=[CodebookConfig(centroids=4), CodebookConfig(centroids=4)])
    metric = Metric(pictures, 1.0, 0.5, 0.5)
    with pytest.warns(UserWarning, match="the best of 2 is 0.5"):
        found = autotune(small_net, tuning, eval_fn=metric)
        gc.collect()
    assert lloydmax.codebooks(found)
    assert torch.equal(metric.outputs[1], metric.outputs[2])


class OnlyFirst(Sampler):
    """Ends before INC's count of trials is reached."""

    def __init__(self, config_source: Any) -> None:
        pass

    def __iter__(self) -> Iterator[int]:
        return iter([0])


def test_none_from_a_sampler_that_ends_early_is_explained(small_net: nn.Module, pictures: Tensor) -> None:
    tuning = TuningConfig(config_set=[CodebookConfig(centroids=[4, 8])], sampler=OnlyFirst)
    with pytest.warns(UserWarning, match=r"tried 1 of 2 configurations .* so autotune returns None"):
        found = autotune(small_net, tuning, eval_fn=Metric(pictures, 1.0, 0.5))
        gc.collect()
    assert found is None


@pytest.mark.parametrize(
    ("baseline", "says"),
    [
        (0.0, "the metric of the original model is 0"),
        (math.nan, "must return a finite number"),
        ({"accuracy": 1.0}, "must return one number"),
    ],
)
def test_a_baseline_that_inc_cannot_use_is_an_error(
    baseline: Any, says: str, small_net: nn.Module, pictures: Tensor
) -> None:
    with pytest.raises(lloydmax.IntegrationError, match=says):
        autotune(small_net, TuningConfig(config_set=[CodebookConfig()]), eval_fn=Metric(pictures, baseline))


def test_a_negative_metric_is_a_warning(small_net: nn.Module, pictures: Tensor) -> None:
    with pytest.warns(UserWarning, match=r"is negative \(-2\): INC's goal, -1\.98, is then stricter"):
        autotune(small_net, TuningConfig(config_set=[CodebookConfig()]), eval_fn=Metric(pictures, -2.0, -1.0))


@pytest.mark.parametrize(
    ("baseline", "result", "warns"),
    [(20.0, 23.0, True), (0.02, 0.05, True), (71.2, 71.5, False), (0.5, 0.55, False), (1.0, 0.9, False)],
)
def test_a_metric_that_compression_makes_better_is_doubted(
    baseline: float, result: float, warns: bool, small_net: nn.Module, pictures: Tensor
) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tuning = TuningConfig(config_set=[CodebookConfig(centroids=4)])
        autotune(small_net, tuning, eval_fn=Metric(pictures, baseline, result))
        gc.collect()
    assert sum("gives a perplexity or a loss" in str(one.message) for one in said) == warns


def test_a_metric_that_is_called_perplexity_is_doubted_before_any_work(small_net: nn.Module, pictures: Tensor) -> None:
    values = iter([20.0, 20.1])

    def eval_ppl(model: nn.Module) -> float:
        return next(values)

    with pytest.warns(UserWarning, match=r"eval_fn is called 'eval_ppl'.* return 1 / perplexity"):
        autotune(small_net, TuningConfig(config_set=[CodebookConfig(centroids=4)]), eval_fn=eval_ppl)
        gc.collect()


def test_the_log_has_the_layers_of_each_trial(
    small_net: nn.Module, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[Any] = []
    monkeypatch.setattr(algorithm, "dump_model_op_stats", lambda mode, mapping: tables.append(mapping))
    metric = Metric(pictures, 1.0, 0.5, 1.0)
    autotune(small_net, TuningConfig(config_set=[CodebookConfig(centroids=[4, 16])]), eval_fn=metric)
    assert [{one.bits for one in mapping.values()} for mapping in tables] == [{2}, {4}]


def test_an_exception_in_eval_fn_adds_no_message_of_ours(small_net: nn.Module, pictures: Tensor) -> None:
    metric = Metric(pictures, 1.0, 0.5)  # no value for the second trial
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(StopIteration):
            autotune(small_net, TuningConfig(config_set=[CodebookConfig(centroids=[4, 8])]), eval_fn=metric)
        gc.collect()


def test_a_call_that_failed_leaves_no_stale_results(small_net: nn.Module, pictures: Tensor) -> None:
    from neural_compressor.torch.quantization import quantize

    options = {"centroids": 3, "trainable": "all", "recover": RECOVER}
    data = {"now": pictures}

    def calibrate(model: nn.Module) -> None:
        feed(data["now"])(model)

    tuning = TuningConfig(config_set=[CodebookConfig(**options)])
    with pytest.raises(StopIteration) as kept:  # as a notebook keeps the last exception, and all that it refers to
        autotune(small_net, tuning, eval_fn=Metric(pictures, 1.0), run_fn=calibrate)
    data["now"] = pictures.flip(0) * 2
    found = autotune(small_net, tuning, eval_fn=Metric(pictures, 1.0, 1.0), run_fn=calibrate)
    wanted = quantize(small_net, CodebookConfig(**options), run_fn=calibrate)
    assert torch.equal(found(pictures), wanted(pictures))
    del kept


class Bisecting(Sampler):
    """An adaptive sampler: from results so far, the fewest centroids that reach the goal."""

    results: dict[int, float] = {}  # noqa: RUF012
    goal = 0.9

    def __init__(self, config_source: Any) -> None:
        self.count = len(config_source)

    def __iter__(self) -> Iterator[int]:
        low, high = 0, self.count - 1
        while low <= high:
            middle = (low + high) // 2
            yield middle
            if self.results[max(self.results)] >= self.goal:
                high = middle - 1
            else:
                low = middle + 1


def test_an_adaptive_sampler(small_net: nn.Module, pictures: Tensor) -> None:
    tried: list[int] = []

    def evaluate(model: nn.Module) -> float:
        held = lloydmax.codebooks(model)
        if not held:
            return 1.0
        tried.append(max(book.k for book in held.values()))
        Bisecting.results[len(tried)] = 0.95 if tried[-1] >= 8 else 0.1
        return Bisecting.results[len(tried)]

    config = CodebookConfig(centroids=[2, 4, 8, 16, 32])
    tuning = TuningConfig(config_set=[config], sampler=Bisecting, tolerable_loss=0.0, max_trials=3)
    with pytest.warns(UserWarning, match="no configuration reached"):
        found = autotune(small_net, tuning, eval_fn=evaluate)
        gc.collect()
    assert tried == [8, 2, 4]
    assert max(book.k for book in lloydmax.codebooks(found).values()) == 8


def test_over_compositions(small_net: nn.Module, pictures: Tensor) -> None:
    config = CodebookConfig(centroids=[2, 4], white_list=["stem", "padded"])
    sets = [config + RTNConfig(bits=8, use_layer_wise=False), config + RTNConfig(bits=4, use_layer_wise=False)]
    metric = Metric(pictures, 1.0, 0.1, 0.3, 0.2, 0.15)
    with pytest.warns(UserWarning, match="the best of 4 is 0.3"):
        found = autotune(small_net, TuningConfig(config_set=sets), eval_fn=metric)
        gc.collect()
    assert torch.equal(found(pictures), metric.outputs[2])
    assert type(found.get_submodule("head.0")).__name__ == "INCWeightOnlyLinear"


def test_the_set_of_all_configs_has_codebooks() -> None:
    ours = [config for config in get_all_config_set() if isinstance(config, CodebookConfig)]
    assert len(ours) == 1
    assert len(ours[0].expand()) == 3
