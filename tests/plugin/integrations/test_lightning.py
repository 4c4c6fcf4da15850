"""Lightning, as the page of the integrations shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax import IntegrationError, LloydmaxError
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

lightning = pytest.importorskip("lightning.pytorch")
from lloydmax.integrations.lightning import Compress  # noqa: E402

RECIPE = {
    "quantize": [{"layers": "all", "centroids": 4}],
    "recover": [{"step": "distill", "steps": 2, "batch_size": 16}],
}


class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fitted(compress: Compress, module: nn.Module, loader: Any, **options: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", callbacks=[compress], **quiet, **options)
    trainer.fit(module, loader)
    return trainer


def test_the_model_is_compressed_at_the_end_of_fit(small_net: nn.Module, pictures: Tensor, tmp_path: Path) -> None:
    module, labels = Module(small_net), torch.zeros(len(pictures), dtype=torch.int64)
    loader = DataLoader(TensorDataset(pictures, labels), 32)
    logger = lightning.loggers.CSVLogger(tmp_path / "logs")
    compress = Compress(RECIPE, tmp_path / "small.safetensors", network="net", progress=False, seed=3)
    fitted(compress, module, loader, logger=logger)
    assert compress.result is not None and not lloydmax.codebooks(module)
    same = lloydmax.compress(small_net, RECIPE, loader, progress=False, seed=3)  # the net as it was trained
    same.save(tmp_path / "same.safetensors")
    assert (tmp_path / "small.safetensors").read_bytes() == (tmp_path / "same.safetensors").read_bytes()
    logger.save()
    assert "lloydmax/bytes" in next(tmp_path.rglob("metrics.csv")).read_text()
    whole = Compress({"quantize": [{"layers": "net.stem", "centroids": 4}]}, progress=False)
    fitted(whole, module, loader, logger=False, limit_train_batches=1)
    assert whole.result is not None and sorted(lloydmax.codebooks(whole.result.model)) == ["net.stem.weight"]
    assert whole.result.model._trainer is None, "nothing of the training is kept alive"


def test_what_cannot_work_is_refused_before_the_training(
    small_net: nn.Module, pictures: Tensor, tmp_path: Path
) -> None:
    def no_step(*arguments: Any) -> Tensor:
        raise AssertionError("trained")

    module = Module(small_net)
    module.training_step = no_step  # type: ignore[method-assign]
    for made, message in (
        (lambda: Compress(RECIPE, network="nett"), "has no network 'nett'; it has 'net'"),
        (lambda: Compress(RECIPE, tmp_path / "missing" / "small.safetensors"), "missing"),
        (lambda: Compress({"quantize": [{"layers": "steem", "centroids": 4}]}), "steem"),
        (lambda: Compress(RECIPE, sed=3), "no option 'sed'"),
    ):
        with pytest.raises(LloydmaxError, match=message):
            fitted(made(), module, DataLoader(pictures, 32), logger=False)
    with pytest.raises(IntegrationError, match="several training loaders"):
        several = {"a": DataLoader(pictures, 32), "b": DataLoader(pictures, 32)}
        module.training_step = lambda batch, batch_idx: None  # type: ignore[method-assign]
        fitted(Compress(RECIPE), module, several, logger=False, limit_train_batches=1)
