"""Coverage is what data flow says, not what was claimed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qbench_suite import Manager
from qbench_suite.convert.coverage import SiteCoverage, measure_coverage
from qbench_suite.convert.survey import survey
from qbench_suite.convert.swap import convert
from qbench_suite.layers import Quantizing


class Between(nn.Module):
    """A quantized ReLU and a float product, with some function between the two."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.act(x)).reshape(len(x), -1)
        return torch.einsum("bi,oi->bo", x, torch.ones(1, x.shape[1]))


IMAGES = torch.randn(2, 4, 6, 6)
KEEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda x: x.view(2, -1),
    "permute": lambda x: x.permute(0, 2, 3, 1).contiguous(),
    "transpose": lambda x: x.transpose(1, 2).reshape(2, -1),
    "clone": lambda x: x.clone(),
    "cat": lambda x: torch.cat([x, x.flip(1)]).view(2, -1),
    "pad with zeros": lambda x: F.pad(x, (1, 1)),
    "index_select": lambda x: x.index_select(1, torch.tensor([0, 2])),
    "index": lambda x: x[:, [1, 2]],
    "roll": lambda x: x.roll(1, 2),
    "unfold": lambda x: F.unfold(x, 3),
    "relu": lambda x: x.relu(),
    "max_pool": lambda x: F.max_pool2d(x, 2),
    "times a number": lambda x: x * 0.5,
    "divided by a number": lambda x: x / 3,
    "times a single element": lambda x: x * torch.tensor(2.0),
    "dropout": lambda x: F.dropout(x, training=False),
    "cast": lambda x: x.to(torch.float64).to(torch.float32),
    "written into zeros": lambda x: torch.zeros(2, 4, 6, 6).index_put((torch.arange(2),), x),
    "copied to room": lambda x: torch.empty_like(x).copy_(x),
}
LOSES: dict[str, Callable[[Tensor], Tensor]] = {
    "plus a number": lambda x: x + 1,
    "times a tensor": lambda x: x * torch.rand(4, 1, 1),
    "mean": lambda x: x.mean((2, 3)),
    "gelu": lambda x: F.gelu(x),
    "cat with float": lambda x: torch.cat([x, torch.rand(2, 4, 6, 6)]).view(2, -1),
    "pad with ones": lambda x: F.pad(x, (1, 1), value=1.0),
    "changed in place": lambda x: x.clone().add_(0.1),
    "partly overwritten": lambda x: x.clone().index_copy_(
        1, torch.tensor([0]), torch.rand(2, 1, 6, 6)
    ),
    "slice overwritten": lambda x: _overwritten(x.clone()),
}


def _overwritten(x: Tensor) -> Tensor:
    x[:, 0] = torch.rand(2, 6, 6)
    return x


@pytest.mark.parametrize("between", [*KEEPS, *LOSES])
def test_values_stay_quantized_where_they_are_only_moved(
    manager: Manager, assigned: Any, between: str
) -> None:
    model = Between({**KEEPS, **LOSES}[between])
    found = survey(model, IMAGES, manager)
    converted = convert(model, found, assigned(found))
    coverage = measure_coverage(converted, found, IMAGES)[":einsum"]
    assert coverage.multiply_adds > 0
    assert coverage.one == (coverage.multiply_adds if between in KEEPS else 0)
    assert coverage.both == 0


class Net(nn.Module):
    """Products of every sort."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).transpose(1, 2)
        x = self.fc(x)
        return x @ x.transpose(1, 2)


def test_products_of_layers_and_calls_are_counted_by_site(manager: Manager, assigned: Any) -> None:
    model = Net().eval()
    found = survey(model, IMAGES, manager)
    assignments = list(assigned(found))
    everything = measure_coverage(convert(model, found, assignments), found, IMAGES)
    conv, fc, matmul = 16 * 4 * 4 * 9, 16 * 4 * 4, 16 * 16 * 4
    assert everything == {
        "conv": SiteCoverage(conv, conv, conv),
        "fc": SiteCoverage(fc, fc, fc),
        ":matmul": SiteCoverage(matmul, matmul, matmul),
    }
    assignments[1] = replace(assignments[1], quantizers={}, reason="excluded")
    some = measure_coverage(convert(model, found, assignments), found, IMAGES)
    assert some == {**everything, "fc": SiteCoverage(fc, 0, 0)}


@pytest.mark.parametrize(("role", "one"), [("weight", True), ("input", True), ("", False)])
def test_one_quantized_operand_is_one(
    manager: Manager, assigned: Any, role: str, one: bool
) -> None:
    model = nn.Sequential(nn.Linear(6, 6))
    found = survey(model, IMAGES, manager)
    (given,) = assigned(found)
    quantizers = {key: q for key, q in given.quantizers.items() if key == role}
    converted = convert(model, found, [replace(given, quantizers=quantizers)])
    coverage = measure_coverage(converted, found, IMAGES)["0"]
    assert coverage == SiteCoverage(864, 864 if one else 0, 0)


def test_weights_of_fused_attention_are_float(manager: Manager, assigned: Any) -> None:
    class Attends(nn.Module):
        """q, k and v are one quantized tensor."""

        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(x)
            return F.scaled_dot_product_attention(x, x, x)

    model, x = Attends(), torch.randn(2, 3, 5, 8)
    found = survey(model, x, manager)
    coverage = measure_coverage(convert(model, found, assigned(found)), found, x)
    half = 3 * 5 * 5 * 8
    assert coverage == {":scaled_dot_product_attention": SiteCoverage(2 * half, 2 * half, half)}


def test_nothing_is_left_behind(manager: Manager, assigned: Any) -> None:
    model = Net().eval()
    found = survey(model, IMAGES, manager)
    converted = convert(model, found, assigned(found))

    def watch(_: object) -> None:
        """Somebody else's."""

    converted.layers["fc"].watch = watch
    y = converted(IMAGES)
    measure_coverage(converted, found, IMAGES)
    assert converted.layers["fc"].watch is watch
    assert converted.layers["conv"].watch is None
    assert all(isinstance(layer, Quantizing) for layer in converted.layers.values())
    assert converted.interception.visitor is None
    assert torch.equal(converted(IMAGES), y)


def test_inference_mode_makes_no_difference(manager: Manager, assigned: Any) -> None:
    model = Net().eval()
    found = survey(model, IMAGES, manager)
    converted = convert(model, found, assigned(found))
    outside = measure_coverage(converted, found, IMAGES)
    with torch.inference_mode():
        assert measure_coverage(converted, found, IMAGES) == outside
