"""Over every architecture of the coverage test: a Trainer evaluates a student, and trains what PEFT puts on it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch

hf, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
pytest.importorskip("accelerate")

import lloydmax.integrations.transformers  # noqa: E402
from hf_models import ALL_LAYERS, answers  # noqa: E402
from tiny_transformers import NETWORKS, Network  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*looks untrained", "ignore:.*layers, all or", "ignore::UserWarning")
ALONE = {
    "mamba": ["x_proj", "in_proj"],  # PEFT refuses the others
    "llama4": ["q_proj", "down_proj"],  # its router gives a tuple, which LoRA does not take
    "wav2vec2": ["q_proj", "k_proj"],  # PEFT asks for embeddings where a head has an adapter
}
"""Where LoRA cannot be on all linear layers, compressed or not."""
QUICK = ("mixtral", "vit")


class _Rows(torch.utils.data.Dataset):
    """Samples as a Trainer takes them, with labels."""

    def __init__(self, name: str, network: Network) -> None:
        given = dict(network.inputs)
        wanted = given.pop("decoder_input_ids", given.get("input_ids", torch.tensor([0, 1])))
        self._rows = given | {"labels": torch.tensor([[3, 4, 5], [4, 5, 6]]) if name == "wav2vec2" else wanted}

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {key: value[index] for key, value in self._rows.items()}


def _trainer(model: Any, rows: _Rows, folder: Path) -> Any:
    arguments = hf.TrainingArguments(
        str(folder), per_device_train_batch_size=2, per_device_eval_batch_size=2, max_steps=2, learning_rate=1e-2,
        report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    return hf.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)


def _adapted(model: Any, name: str) -> Any:
    torch.manual_seed(1)
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=ALONE.get(name, "all-linear")))


def _learnt(model: Any) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items() if "lora_B" in key}


def _shapes(model: Any) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in _learnt(model).items()}


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in NETWORKS
        if name not in ("distilbert", "clip")  # they give no loss
    ],
)
def test_a_trainer_evaluates_a_student_and_trains_adapters_on_it(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]
    rows = _Rows(name, network)
    student = lloydmax.compress(network.make(), ALL_LAYERS, progress=False).model
    decoded = copy.deepcopy(student).dequantize()
    loss = _trainer(decoded, rows, tmp_path).evaluate()["eval_loss"]
    trainer = _trainer(student, rows, tmp_path)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-4)
    trainer.save_model(str(tmp_path / "saved"))
    inputs, before = network.inputs, answers(student, network.inputs)
    loaded = getattr(hf, type(student).__name__).from_pretrained(str(tmp_path / "saved"))
    assert all(map(torch.equal, answers(loaded, inputs), before))

    adapted = _adapted(student, name)
    assert _shapes(adapted) == _shapes(_adapted(decoded, name))
    assert all(map(torch.equal, answers(adapted.eval(), inputs), before))
    trainer = _trainer(adapted, rows, tmp_path)
    trainer.train()
    assert all(value.any() for value in _learnt(adapted).values())
    after = answers(adapted.eval(), inputs)
    with pytest.raises(lloydmax.IntegrationError, match="cannot be merged into codes"):
        adapted.merge_and_unload()
    assert all(map(torch.equal, answers(adapted, inputs), after))
    trainer.save_model(str(tmp_path / "adapter"))
    assert all(map(torch.equal, answers(adapted.unload(), inputs), before))
    again = peft.PeftModel.from_pretrained(loaded, str(tmp_path / "adapter")).eval()
    for found, wanted in zip(answers(again, inputs), after, strict=True):  # Mamba's sums are not those of the last call
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
