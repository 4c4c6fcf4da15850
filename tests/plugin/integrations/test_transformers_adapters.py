"""PEFT: adapters train beside codes, are saved without them, and are never merged into them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch

hf, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")

import lloydmax.integrations.transformers  # noqa: E402
from hf_models import KINDS, answers, gpt2, llama, student, vit  # noqa: E402
from lloydmax.defaults import recipe_for  # noqa: E402
from lloydmax.recipe.recipe import Recipe  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*looks untrained", "ignore:.*layers, all or", "ignore::UserWarning")
CASES: list[tuple[Callable[[], Any], Any, dict[str, Any]]] = [
    (llama, ["q_proj", "down_proj"], {"task_type": "CAUSAL_LM"}),
    (llama, "all-linear", {}),
    (llama, ["q_proj"], {"use_dora": True}),
    (llama, ["embed_tokens", "v_proj"], {}),
    (gpt2, ["c_attn"], {}),
    (vit, ["projection", "query"], {}),
]

QUICK = 3
"""The case that is tried whenever tests are: an embedding and a linear layer."""


def _everything(make: Callable[[], Any]) -> Any:
    """A student with codebooks wherever they can be."""
    rules = recipe_for(make(), 8).data()["quantize"]
    return student(make, Recipe.load({"quantize": [{**rule, "centroids": 8, "importance": None} for rule in rules]}))


@pytest.mark.parametrize(
    ("make", "targets", "options"),
    [case if number == QUICK else pytest.param(*case, marks=pytest.mark.slow) for number, case in enumerate(CASES)],
)
def test_lora_trains_and_is_never_merged(
    make: Callable[[], Any], targets: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    model, inputs = _everything(make), {"vit": KINDS["vit"]}.get(make.__name__, KINDS["llama"])[1]
    before = answers(model, inputs)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets, **options))
    assert all(map(torch.equal, answers(adapted.eval(), inputs), before))
    losses = _train(adapted, inputs)
    assert losses[-1] < losses[0]
    after = answers(adapted.eval(), inputs)
    for merge in (adapted.merge_and_unload, adapted.merge_adapter):
        with pytest.raises(lloydmax.IntegrationError, match="cannot be merged into codes"):
            merge()
    assert all(map(torch.equal, answers(adapted, inputs), after))
    adapted.save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(lloydmax.IntegrationError, match="has an adapter"):
        adapted.base_model.model.save_pretrained(str(tmp_path / "both"))
    assert all(map(torch.equal, answers(adapted.unload(), inputs), before))
    model.save_pretrained(str(tmp_path / "base"))
    base = type(make()).from_pretrained(str(tmp_path / "base"))
    again = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    assert all(map(torch.equal, answers(again, inputs), after))


def _train(model: Any, inputs: dict[str, Any]) -> list[float]:
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    losses = []
    for _ in range(6):
        loss = (model(**inputs).to_tuple()[0] - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


def test_an_adapter_that_would_change_codes_is_refused() -> None:
    with pytest.raises(lloydmax.IntegrationError, match="pissa"):
        peft.get_peft_model(student(), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights="pissa"))
