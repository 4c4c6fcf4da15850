"""What drives models of transformers: a Trainer, harnesses that ask for likelihoods, and generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
import torch.nn.functional as F

hf = pytest.importorskip("transformers")

import lloydmax.integrations.transformers  # noqa: E402
from hf_models import IDS, gpt2, llama, student, t5  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*looks untrained", "ignore:.*layers, all or", "ignore::UserWarning")


class _Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = torch.arange(index + 3, index + 15)
        return {"input_ids": row, "labels": row}


def _trainer(model: Any, folder: Path) -> Any:
    pytest.importorskip("accelerate")
    arguments = hf.TrainingArguments(
        str(folder), per_device_eval_batch_size=2, max_steps=2, report_to=[], use_cpu=True, disable_tqdm=True
    )
    return hf.Trainer(model, arguments, train_dataset=_Rows(), eval_dataset=_Rows())


def test_a_trainer_evaluates_and_does_not_train(tmp_path: Path) -> None:
    model = student()
    rows = torch.stack([row["input_ids"] for row in map(_Rows().__getitem__, range(6))])
    with torch.no_grad():
        loss = float(model(input_ids=rows, labels=rows).loss)
    trainer = _trainer(model, tmp_path)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-4)
    with pytest.raises(lloydmax.IntegrationError, match="fine-tuning on purely quantized models"):
        trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = hf.AutoModelForCausalLM.from_pretrained(str(tmp_path / "saved"))
    assert torch.equal(loaded(rows).logits, model(rows).logits)


@pytest.mark.slow
def test_a_trainer_trains_adapters(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(student(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    _trainer(adapted, tmp_path).train()
    after = adapted.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed and all("lora_" in name for name in changed)


@pytest.mark.parametrize("make", [gpt2, pytest.param(llama, marks=pytest.mark.slow)])
def test_likelihoods_in_padded_batches(make: Any) -> None:
    """As harnesses ask: log probabilities of continuations, by one forward pass of a batch of unequal lengths."""
    model = student(make)
    rows = [IDS[0], IDS[1, :7], IDS[0, 3:9]]
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with torch.no_grad():
        together = F.log_softmax(model(batch, attention_mask=mask).logits, -1)
        for row, found in zip(rows, together, strict=True):
            alone = F.log_softmax(model(row[None]).logits[0], -1)
            torch.testing.assert_close(found[: len(row)], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make", [llama, pytest.param(gpt2, marks=pytest.mark.slow), pytest.param(t5, marks=pytest.mark.slow)]
)
def test_generate_by_every_way(make: Any) -> None:
    model = student(make)
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    greedy = model.generate(IDS, **options)
    assert torch.equal(model.generate(IDS, use_cache=False, **options), greedy)
    assert model.generate(IDS, num_beams=2, **options).shape[0] == 2
    assert torch.equal(lloydmax.set_cache(model, False).generate(IDS, **options), greedy)


@pytest.mark.slow
def test_a_pipeline_runs_it(tmp_path: Path) -> None:
    from hf_models import word_tokenizer

    model = student()
    model.save_pretrained(str(tmp_path))
    tokenizer = word_tokenizer(tmp_path)
    run = hf.pipeline("text-generation", model=str(tmp_path), tokenizer=tokenizer, device="cpu")
    assert run("abc", max_new_tokens=3, do_sample=False)[0]["generated_text"].startswith("a")


def test_half_float_and_moves_work_as_for_any_model() -> None:
    model = student()
    assert model.half().dtype == torch.float16 and model.float().dtype == torch.float32
    assert model.to(torch.bfloat16).dtype == torch.bfloat16
    model.tie_weights()
    assert lloydmax.codebooks(model)
