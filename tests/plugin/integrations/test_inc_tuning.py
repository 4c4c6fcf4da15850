"""Which tuning run of Intel Neural Compressor a trial belongs to."""

from __future__ import annotations

import copy
import gc
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import lloydmax
import pytest
from lloydmax.integrations.inc import CodebookConfig, tuning
from neural_compressor.torch.quantization import RTNConfig, TuningConfig, autotune, quantize
from torch import nn

pytest.importorskip("neural_compressor")


def test_runs_in_two_threads_have_their_own_baselines(small_net: nn.Module) -> None:
    both_began = Barrier(2)

    def tune(baseline: float) -> nn.Module:
        def evaluate(model: nn.Module) -> float:
            if lloydmax.codebooks(model):
                return 1.0
            both_began.wait()
            return baseline

        config = TuningConfig(config_set=[CodebookConfig(centroids=4)])
        return autotune(copy.deepcopy(small_net), config, eval_fn=evaluate)

    with ThreadPoolExecutor(2) as pool:
        fine, useless = pool.submit(tune, 1.0), pool.submit(tune, 0.0)
        assert lloydmax.codebooks(fine.result())
        with pytest.raises(lloydmax.IntegrationError, match="the metric of the original model is 0"):
            useless.result()


def test_a_configuration_that_is_listed_twice(small_net: nn.Module) -> None:
    config = CodebookConfig(centroids=4)
    results = iter([1.0, 0.25, 0.5])
    with pytest.warns(UserWarning, match="the best of 2 is 0.5") as said:
        autotune(small_net, TuningConfig(config_set=[config, config]), eval_fn=lambda _: next(results))
        gc.collect()
    assert len(said) == 1


def test_what_is_expanded_inside_of_another_run_is_not_part_of_it(small_net: nn.Module) -> None:
    def evaluate(model: nn.Module) -> float:
        for trial in CodebookConfig(centroids=[2, 3]).expand():
            quantize(copy.deepcopy(small_net), trial)
        return -1.0

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        autotune(small_net, TuningConfig(config_set=[RTNConfig(use_layer_wise=False)]), eval_fn=evaluate)
        gc.collect()


def test_trials_look_into_their_model_once_until_it_is_another(
    small_net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bytes] = []
    real = tuning.model_fingerprint
    monkeypatch.setattr(tuning, "model_fingerprint", lambda model: looked.append(real(model)) or looked[-1])
    measured = 0

    def measure(model: nn.Module) -> float:
        nonlocal measured
        measured += 1
        if measured == 4:  # the original, and three trials
            next(small_net.parameters()).data.add_(1.0)
        return 1.0

    config = CodebookConfig(centroids=[2, 3, 4, 5])
    autotune(small_net, TuningConfig(config_set=[config], tolerable_loss=-1), eval_fn=measure)
    assert len(looked) == 2 and looked[0] != looked[1]
