from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import nn

from preflab.scoring.lora import FEW_ROWS, FastLinear, hasten, product


class Net(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.one, self.two = nn.Linear(6, 5, bias=bias), nn.Linear(5, 3, bias=bias)

    def forward(self, x):
        return self.two(self.one(x).tanh())


def make(bias=True, dtype=torch.float64):
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["one", "two"])
    peft = get_peft_model(Net(bias).double(), config, adapter_name="policy", autocast_adapter_dtype=False)
    peft.add_adapter("reward", LoraConfig(r=4, lora_alpha=1, target_modules=["two"]))
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    return peft.to(dtype)


def layers(peft):
    return [m for m in peft.modules() if isinstance(m, Linear)]


def run(peft, x, adapter):
    peft.set_adapter(adapter)
    x = x.clone().requires_grad_()
    y = peft(x)
    learnt = [p for p in peft.parameters() if p.requires_grad]
    return y, torch.autograd.grad((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum(), [x, *learnt])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("adapter", ["policy", "reward"])
@pytest.mark.parametrize("shape", [(6,), (7, 6), (2, 3, 6), (0, 6)])
def test_output_and_gradients_are_pefts(shape, adapter, bias):
    peft, x = make(bias), torch.randn(shape, dtype=torch.float64)
    expected, expected_grads = run(peft, x, adapter)
    hasten(layers(peft))
    assert all(type(layer) is FastLinear for layer in layers(peft))
    found, grads = run(peft, x, adapter)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    for one, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


@pytest.mark.parametrize("rows", [1, 2, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("onto", [None, (8,), "rows"])
def test_a_product_is_the_same_from_either_side(rows, onto):
    x, weight = torch.randn(rows, 16), torch.randn(8, 16)
    start = None if onto is None else torch.randn((rows, 8) if onto == "rows" else onto)
    found = product(x, weight, start)
    wanted = x.double() @ weight.double().t() + (0 if start is None else start.double())
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)


def test_gradients_of_a_single_layer_against_finite_differences():
    peft = make()
    hasten(layers(peft))
    peft.set_adapter("policy")
    layer, x = layers(peft)[0], torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    a, b = layer.lora_A["policy"].weight, layer.lora_B["policy"].weight
    assert torch.autograd.gradcheck(lambda x, a, b: layer(x), (x, a, b))


def test_bare_base_and_merged_weights_go_pefts_way():
    peft, x = make(), torch.randn(3, 6, dtype=torch.float64)
    with torch.no_grad():
        peft.set_adapter("policy")
        adapted = peft(x)
        hasten(layers(peft))
        with peft.disable_adapter():
            bare = peft(x)
        peft.merge_adapter(["policy"])
        merged = peft(x)
        peft.unmerge_adapter()
        both = peft.base_model
        both.set_adapter(["policy", "reward"])
        two = peft(x)
    torch.testing.assert_close(merged, adapted)
    assert not torch.allclose(bare, adapted)
    assert not torch.allclose(two, adapted)


def test_half_precision_and_autocast_round_as_much_as_peft():
    x = torch.randn(5, 6)
    exact, _ = run(make(dtype=torch.float64), x.double(), "policy")
    for dtype, half in ((torch.float32, True), (torch.bfloat16, False)):
        peft = make(dtype=dtype)
        hasten(layers(peft))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found, grads = run(peft, x.to(dtype), "policy")
        assert found.dtype == torch.bfloat16
        assert (found.double() - exact).abs().max() < 0.05 * exact.abs().max()
        assert all(grad.isfinite().all() for grad in grads)


def test_quantised_or_other_layers_are_left_alone():
    peft = make()
    layers(peft)[0].base_layer.__class__ = type("Quantised", (nn.Linear,), {})
    hasten(layers(peft))
    assert [type(layer) for layer in layers(peft)] == [Linear, FastLinear]
