"""Networks that take tables and measurements."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from zoo import scores, tflite_import
from zoo.network import Loaded, Network, against, checkpoint

TINY = "mlcommons/tiny"


def machines() -> Loaded:
    """An autoencoder of the sound of machines: what it does not give back is odd."""
    folder = "benchmark/training/anomaly_detection/trained_models"
    model = tflite_import.network(checkpoint("ad01_fp32.tflite", TINY, f"{folder}/ad01_fp32.tflite"))
    name = "normal_id_01_00000000_hist_librosa.bin"
    path = checkpoint(name, TINY, f"benchmark/reference_submissions/anomaly_detection/datasets/dcase01/{name}")
    bands = torch.from_numpy(np.fromfile(path, np.float32)).reshape(-1, 128)
    x = bands.unfold(0, 5, 1).transpose(1, 2).flatten(1)
    half = len(x) // 2
    return against(model, x[: half - 5], x[half:], scores.decibels())


def tumours() -> Loaded:
    """Trained here on two thirds of 569 rows, in a second: packages ship no trained network for tables."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(table.data))
    values = torch.from_numpy((table.data - table.data.mean(0)) / table.data.std(0)).float()[order]
    labels = torch.from_numpy(table.target[order]).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(30, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        model.append(nn.Linear(128, 2))
        optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
        for _ in range(200):
            rows = torch.randint(0, 380, (64,))
            loss = F.cross_entropy(model(values[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Loaded(model.eval(), values[:380], values[380:], scores.accuracy(labels[380:]))


NETWORKS = (
    Network(
        "machines",
        "odd sounds of machines",
        f"checkpoint of {TINY} (Apache-2.0)",
        "dB of what it gives",
        machines,
        False,
    ),
    Network("tumours", "a table of 30 columns", "scikit-learn's table, trained here", "accuracy", tumours),
)
