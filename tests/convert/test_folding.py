"""A norm is folded where it alone follows a layer, and nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench_suite import Manager, default_manager
from qbench_suite.convert.survey import survey
from qbench_suite.convert.swap import convert


def lively(model: nn.Module) -> nn.Module:
    """``model`` with statistics and parameters of norms that matter."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.uniform_(norm.bias, -1, 1)
    return model.eval()


class Branch(nn.Module):
    """A layer and a norm in the arrangement that ``way`` makes of them."""

    def __init__(self, way: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


WAYS: dict[str, tuple[Callable[[Any, Tensor], Tensor], bool]] = {
    "directly": (lambda m, x: m.norm(m.conv(x)), True),
    "and more": (lambda m, x: m.norm(m.conv(x)).relu(), True),
    "also read elsewhere": (lambda m, x: (y := m.conv(x)) + m.norm(y), False),
    "also returned": (lambda m, x: torch.stack([y := m.conv(x), m.norm(y)]), False),
    "not directly": (lambda m, x: m.norm(m.conv(x).relu()), False),
    "norm used twice": (lambda m, x: m.norm(m.norm(m.conv(x))), False),
    "bias read elsewhere": (lambda m, x: m.norm(m.conv(x)) + m.conv.bias.sum(), False),
    "weight read through a view": (
        lambda m, x: m.norm(m.conv(x)) + m.conv.weight.data.mean(),
        False,
    ),
    "mean read elsewhere": (lambda m, x: m.norm(m.conv(x)) + m.norm.running_mean.sum(), False),
    "read through a view": (lambda m, x: (y := m.conv(x)).mT.mT + m.norm(y), False),
    "layer used twice": (lambda m, x: m.norm(m.conv(x)) + m.conv(x), False),
}


@pytest.mark.parametrize("way", WAYS)
def test_norm_is_folded_only_where_it_alone_reads_the_layer(
    manager: Manager, assigned: Any, way: str
) -> None:
    forward, folds = WAYS[way]
    model, x = lively(Branch(forward)), torch.randn(2, 3, 6, 6)
    state = copy.deepcopy(model.state_dict())
    found = survey(model, x, manager)
    converted = convert(model, found, assigned(found, bare=True), fold_batch_norm=True)
    why = {a.site.name: a.reason for a in converted.assignments}
    assert (why["norm"] == "folded into conv") == folds
    assert isinstance(converted.model.norm, nn.Identity) == folds
    torch.testing.assert_close(converted(x), model(x), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_folding_is_asked_for(manager: Manager, assigned: Any) -> None:
    model = lively(Branch(WAYS["directly"][0]))
    found = survey(model, torch.randn(2, 3, 6, 6), manager)
    assert isinstance(convert(model, found, assigned(found)).model.norm, nn.BatchNorm2d)


def test_quantized_weight_is_the_folded_one(manager: Manager, assigned: Any) -> None:
    model = lively(Branch(WAYS["directly"][0]))
    found = survey(model, torch.randn(2, 3, 6, 6), manager)
    converted = convert(model, found, assigned(found), fold_batch_norm=True)
    (weight,) = converted.layers["conv"].quantized_tensors()
    norm = model.norm
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(weight.source, model.conv.weight * factor[:, None, None, None])


def test_linear_layer_takes_a_norm_too(manager: Manager, assigned: Any) -> None:
    model = lively(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    x = torch.randn(3, 5)
    found = survey(model, x, manager)
    converted = convert(model, found, assigned(found, bare=True), fold_batch_norm=True)
    assert isinstance(converted.model[1], nn.Identity)
    torch.testing.assert_close(converted(x), model(x), atol=1e-5, rtol=1e-5)


class Standardised(nn.Conv2d):
    """A convolution whose weights are standardised at every forward."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


def test_layer_that_computes_with_other_weights_than_its_own_is_left_alone(
    manager: Manager, assigned: Any
) -> None:
    model = Branch(WAYS["directly"][0])
    model.conv = Standardised(3, 4, 3)
    x = torch.randn(2, 3, 6, 6)
    lively(model)
    found = survey(model, x, manager)
    converted = convert(model, found, assigned(found, bare=True), fold_batch_norm=True)
    assert isinstance(converted.model.norm, nn.BatchNorm2d)
    torch.testing.assert_close(converted(x), model(x))


def test_activation_at_the_end_of_a_folded_norm_is_still_quantized(assigned: Any) -> None:
    from timm.layers import BatchNormAct2d

    model = lively(nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4)))
    x = torch.randn(2, 3, 6, 6)
    found = survey(model, x, default_manager())
    bare = convert(model, found, assigned(found, bare=True), fold_batch_norm=True)
    torch.testing.assert_close(bare(x), model(x), atol=1e-4, rtol=1e-4)
    converted = convert(model, found, assigned(found), fold_batch_norm=True)
    (norm,) = [a for a in converted.assignments if a.site.name == "1"]
    assert (norm.reason, [*map(str, norm.quantizers)]) == ("folded into 0", ["act"])
    y = converted(x)
    assert y.min() == 0
    torch.testing.assert_close(y, model(x), atol=0.1, rtol=0.1)


def folded(model: nn.Module, x: Tensor, manager: Manager, assigned: Any) -> bool:
    found = survey(model, x, manager)
    converted = convert(model, found, assigned(found, bare=True), fold_batch_norm=True)
    torch.testing.assert_close(converted(x), model(x), atol=1e-4, rtol=1e-4)
    return isinstance(converted.model.norm, nn.Identity)


def test_dilated_convolution_takes_a_norm(assigned: Any) -> None:
    model = Branch(WAYS["directly"][0])
    model.conv = nn.Conv2d(3, 4, (3, 2), dilation=(6, 1))
    assert folded(lively(model), torch.randn(2, 3, 16, 16), default_manager(), assigned)


class Narrow(nn.Conv2d):
    """A convolution that refuses images of other sizes than its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(-1, 3, 6, 6))


def test_layer_that_does_not_run_on_a_sample_is_left_alone(manager: Manager, assigned: Any) -> None:
    model = Branch(WAYS["directly"][0])
    model.conv = Narrow(3, 4, 3)
    assert not folded(lively(model), torch.randn(2, 3, 6, 6), manager, assigned)


@pytest.mark.parametrize("where", ["conv", "norm"])
def test_hooks_keep_a_norm_from_being_folded(manager: Manager, assigned: Any, where: str) -> None:
    model = lively(Branch(WAYS["directly"][0]))
    hook = lambda module, args, output: output * 2  # noqa: E731
    model.get_submodule(where).register_forward_hook(hook)
    assert not folded(model, torch.randn(2, 3, 6, 6), manager, assigned)


class Scripted(nn.Module):
    """Scripted code reads what the norm reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.other = torch.jit.script(nn.Sequential(nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + self.other(y)


@pytest.mark.filterwarnings("ignore")
def test_scripted_code_counts_as_a_reader(manager: Manager, assigned: Any) -> None:
    assert not folded(lively(Scripted()), torch.randn(2, 3, 6, 6), manager, assigned)
