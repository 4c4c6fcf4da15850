"""Products from codes are those with the decoded weight, on every path, eager and compiled."""

from __future__ import annotations

import copy
import pickle

import lloydmax
import pytest
import torch
import torch.nn.functional as F
from lloydmax import native
from lloydmax.errors import KernelError
from lloydmax.native.library import PATHS, ready
from lloydmax.student.attachment import attach, finish
from torch import Tensor, nn

pytestmark = pytest.mark.skipif(not native.active(), reason="needs the core")


def _off(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


def _net(k: int, granularity: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(320, 256), nn.ReLU(), nn.Linear(256, 7))
    for name in ("0.weight", "2.weight"):
        attach(model, name, lloydmax.fit_codebook(model.get_parameter(name), k, granularity))
    return finish(model).eval()


@pytest.mark.parametrize("k", [1, 2, 8, 9, 16, 17, 32, 33, 256])
@pytest.mark.parametrize("tables", [1, 3, 9])
def test_products_are_those_with_the_decoded_weight(k: int, tables: int) -> None:
    generator = torch.Generator().manual_seed(k)
    library = ready()
    best = library.lm_path_taken()
    try:
        for width in (1, 31, 64, 330, 1024):
            codes = torch.randint(0, k, (9, width), generator=generator, dtype=torch.uint8)
            table = torch.randn(tables, k, generator=generator)
            weight = table[torch.arange(9) // (9 // tables)].gather(1, codes.long()).double()
            for batch in (1, 2, 3, 4, 7):
                input = torch.randn(batch, width, generator=generator)
                wanted = F.linear(input.double(), weight)
                scale = (input.double().norm(dim=1)[:, None] * weight.norm(dim=1)).norm()
                for path in range(len(PATHS)):
                    library.lm_take_path(path)
                    for fast, most in ((False, 2e-7), (True, 5e-4)):
                        found = native.linear_codes(input, codes, table, 9 // tables, fast)
                        assert (found.double() - wanted).norm() <= most * scale, (width, batch, path, fast)
    finally:
        library.lm_take_path(best)


def test_integers_do_not_overflow_and_outliers_are_exact() -> None:
    codes, table = torch.ones(3, 4096, dtype=torch.uint8), torch.tensor([[-1.0, 1.0]])
    input = torch.ones(1, 4096)
    assert _off(native.linear_codes(input, codes, table, 3, True), torch.full((1, 3), 4096.0).double()) < 1e-6
    input = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
    input[0, 5] = 1e4
    wanted = F.linear(input.double(), table[0][codes.long()].double())
    assert _off(native.linear_codes(input, codes, table, 3, True), wanted) < 1e-6
    for odd in (float("nan"), float("inf")):
        input[0, 5] = odd
        assert torch.equal(native.linear_codes(input, codes, table, 3, True).isfinite(), torch.zeros(1, 3, dtype=bool))
    assert torch.equal(native.linear_codes(torch.zeros(1, 4096), codes, table, 3, True), torch.zeros(1, 3))


def test_shapes_are_checked() -> None:
    codes, table = torch.zeros(4, 8, dtype=torch.uint8), torch.zeros(1, 2)
    for input, tables, shared in ((torch.zeros(1, 7), table, 4), (torch.zeros(1, 8), table, 3)):
        with pytest.raises(ValueError, match="codes"):
            native.linear_codes(input, codes, tables, shared, False)
    with pytest.raises(ValueError, match="float64"):
        native.linear_codes(torch.zeros(1, 8, dtype=torch.float64), codes, table, 4, False)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group:100"])
@pytest.mark.parametrize(("kernel", "most"), [("codes", 1e-6), ("codes-fast", 1e-3)])
def test_a_model_runs_from_its_codes(granularity: str, kernel: str, most: float) -> None:
    net, input = _net(16, granularity), torch.randn(2, 3, 320)
    with torch.no_grad():
        wanted, state = net(input), net.state_dict()
        lloydmax.set_kernel(net, kernel)  # type: ignore[arg-type]
        found = net(input)
        assert 0 < (found - wanted).norm() <= most * wanted.norm()
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(other(input), found)
        assert net.state_dict().keys() == state.keys()
        assert torch.equal(net(torch.cat([input] * 20)), lloydmax.set_kernel(net, None)(torch.cat([input] * 20)))
    lloydmax.set_kernel(net, kernel)  # type: ignore[arg-type]
    leaf = input.clone().requires_grad_()
    net(leaf).sum().backward()  # gradients go the plain way
    assert leaf.grad is not None


def test_compiled_programs_run_it_without_a_break() -> None:
    net, input = lloydmax.set_kernel(_net(16, "channel"), "codes"), torch.randn(1, 320)
    with torch.no_grad():
        compiled = torch.compile(net, backend="eager", fullgraph=True)
        assert torch.equal(compiled(input), net(input))
        torch.library.opcheck(
            torch.ops.lloydmax.linear_codes.default,
            (input, torch.zeros(4, 320, dtype=torch.uint8), torch.zeros(1, 2), 4, False),
        )
        exported = torch.export.export(net, (input,)).module()
        torch.testing.assert_close(exported(input), net(input), rtol=1e-4, atol=1e-5)


def test_without_the_core_the_operator_decodes_and_the_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net, input = lloydmax.set_kernel(_net(16, "channel"), "codes"), torch.randn(1, 320)
    with torch.no_grad():
        wanted = net(input)
        monkeypatch.setattr("lloydmax.native.running.active", lambda: False)
        torch.testing.assert_close(net(input), wanted, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(native, "active", lambda: False)
    with pytest.raises(KernelError, match="native core"):
        lloydmax.set_kernel(net, "codes")
