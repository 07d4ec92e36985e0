"""A survey lists every place that computes, in order, with its cost and why it stays float."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qbench_suite import LayerError, Manager, QuantModule
from qbench_suite.convert.sites import Survey
from qbench_suite.convert.survey import survey
from qbench_suite.errors import ConversionError


class Block(nn.Module):
    """A residual block that calls functions of every sort."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.act = nn.ReLU(inplace=True)
        self.unused = nn.Linear(2, 2)
        self.squash = nn.Tanh()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        x = self.squash(x)
        x = x * self.scale
        x = x + 1
        x += x.clone()
        mask = torch.zeros(4, 4).masked_fill(torch.eye(4).bool(), 2.0)
        x = x @ mask
        return self.head(x.mean((2, 3)))


@pytest.fixture
def found(manager: Manager) -> Survey:
    return survey(Block(), torch.randn(2, 3, 6, 6), manager)


def test_sites_are_in_order_of_execution(found: Survey) -> None:
    assert [site.name for site in found.sites] == [
        *("conv", "act", "squash", ":mul", ":add", ":add.2", ":matmul", ":mean", "head"),
        "unused",
    ]
    assert [site.order for site in found.sites] == sorted(site.order for site in found.sites)


def test_each_site_has_a_twin_or_says_why_not(found: Survey) -> None:
    why = {site.name: site.reason for site in found.sites if site.twin is None}
    assert why[":add"] == "it adds a number"
    assert why[":mul"] == why[":mean"].replace("mean", "mul") != ""
    assert why["squash"].endswith("replaces torch.nn.modules.activation.Tanh")
    assert why["unused"] == "never called"
    twins = {site.name: site.twin.__name__ for site in found.sites if site.twin is not None}
    assert twins == {
        "conv": "TinyConv",
        "act": "TinyReLU",
        "head": "TinyLinear",
        ":add.2": "TinyAdd",
        ":matmul": "TinyMatmul",
    }


def test_multiply_adds_are_those_of_one_image(found: Survey, manager: Manager) -> None:
    counts = {site.name: site.multiply_adds for site in found.sites if site.adds}
    assert counts == {"conv": 4 * 4 * 4 * 3 * 3 * 3, ":matmul": 4 * 4 * 4 * 4, "head": 4 * 5}
    assert found.multiply_adds == sum(counts.values())
    more = survey(Block(), torch.randn(5, 3, 6, 6), manager)
    assert more.multiply_adds == found.multiply_adds


def test_parameters_belong_to_the_site_that_reads_them(found: Survey) -> None:
    elements = {site.name: site.weight_elements for site in found.sites if site.weight_elements}
    assert elements == {"conv": 4 * 27 + 4, ":mul": 4, "head": 25, "unused": 6}


def test_first_and_last_multiply_and_add(found: Survey) -> None:
    assert (found.first, found.last) == ("conv", "head")


def test_site_is_found_by_name(found: Survey) -> None:
    assert found.site("head").type == "Linear"
    with pytest.raises(KeyError):
        found.site("tail")


def test_model_is_left_as_it_was(manager: Manager) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout()).train()
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    survey(model, torch.randn(2, 3, 4, 4), manager)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert [module.training for module in model] == [True, True, False]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_images_are_left_as_they_were(manager: Manager) -> None:
    images = torch.randn(2, 3, 4, 4)
    before = images.clone()
    survey(nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 2)), images, manager)
    assert torch.equal(images, before)


def test_survey_within_inference_mode_is_the_same(manager: Manager) -> None:
    model, images = Block().eval(), torch.randn(2, 3, 6, 6)
    with torch.inference_mode():
        inside = survey(model, images, manager)
    outside = survey(model, images, manager)
    assert [*map(repr, inside.sites)] == [*map(repr, outside.sites)]


class Fails(nn.Module):
    """A model that does not run."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("wrong size")


def test_model_that_does_not_run_is_named(manager: Manager) -> None:
    model = nn.Sequential(nn.ReLU(), Fails())
    with pytest.raises(ConversionError, match=r"Sequential raised RuntimeError: wrong size"):
        survey(model, torch.randn(1, 3, 4, 4), manager)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Shared(nn.Module):
    """A module that runs three times, two of them under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = self.one

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.one(x))) + self.one(x)


def test_module_called_several_times_is_one_site(manager: Manager) -> None:
    found = survey(Shared(), torch.randn(2, 4), manager)
    assert [site.name for site in found.sites] == ["one", ":relu", ":add"]
    assert found.sites[0].multiply_adds == 3 * 16


class Holder(nn.Module):
    """A module with a layer that its twin calls as it is, and one that it absorbs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.absorbed = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.absorbed(self.inner(x)) + x)


@pytest.fixture
def holder_manager(make_manager: Callable[..., Manager]) -> Manager:
    class QuantHolder(QuantModule):
        """Holds ``inner``, and computes ``absorbed`` itself."""

        float_types = (f"{Holder.__module__}.Holder",)

        @classmethod
        def from_float(cls, module: Any, quantizers: Any, *, feature_axis: Any = None) -> Any:
            layer = cls(quantizers)
            layer.inner = copy.deepcopy(module.inner)
            layer.weight = layer.quantize_weight("weight", module.absorbed.weight)
            layer.bias = module.absorbed.bias.detach()
            return layer

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(F.linear(self.inner(x), self.weight, self.bias) + x)

    return make_manager(layers=[QuantHolder])


def test_layers_within_a_replaced_module_are_sites_where_the_twin_holds_them(
    holder_manager: Manager,
) -> None:
    found = survey(nn.Sequential(Holder(), nn.ReLU()), torch.randn(2, 4), holder_manager)
    assert [site.name for site in found.sites] == ["0", "0.inner", "1"]
    assert [site.multiply_adds for site in found.sites] == [16, 16, 0]
    assert [site.weight_elements for site in found.sites] == [20, 20, 0]


def test_module_that_its_twin_refuses_stays_float_for_the_reason_it_gives(
    make_manager: Callable[..., Manager],
) -> None:
    base = make_manager().layers.get("TinyReLU").layer

    def refuse(cls: Any, module: nn.Module, quantizers: Any, *, feature_axis: Any = None) -> Any:
        raise LayerError("it must be softer; got a hard one. Soften it.")

    body = {"float_types": ("torch.nn.Hardtanh",), "from_float": classmethod(refuse)}
    manager = make_manager(layers=[type("Refuses", (base,), body)])
    found = survey(nn.Sequential(nn.Hardtanh(), nn.Linear(4, 4)), torch.randn(2, 4), manager)
    assert found.sites[0].twin is None
    assert found.sites[0].reason == "it must be softer; got a hard one. Soften it."


def test_feature_axis_of_a_call_follows_from_the_layer_before(manager: Manager) -> None:
    class Permuted(nn.Module):
        """Sums of images with features last and, after a permutation, on axis 1."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 7)

        def forward(self, x: Tensor) -> Tensor:
            last = self.linear(x.permute(0, 2, 3, 1))
            last = last + last
            first = last.permute(0, 3, 1, 2)
            return (first + first).flatten(2) + first.flatten(2)

    found = survey(Permuted(), torch.randn(2, 5, 4, 6), manager)
    axes = {site.name: site.feature_axis for site in found.sites if site.type == "add"}
    assert axes == {":add": -1, ":add.2": 1, ":add.3": None}


def _scripted(layer: nn.Module) -> nn.Module:
    return torch.jit.script(nn.Sequential(layer, nn.ReLU()))


def _traced(layer: nn.Module) -> nn.Module:
    return torch.jit.trace(layer, torch.randn(2, 4))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("script", [_scripted, _traced])
def test_scripted_module_is_one_site_that_stays_float(
    manager: Manager, script: Callable[[nn.Module], nn.Module]
) -> None:
    model = nn.Sequential(script(nn.Linear(4, 3)), nn.Linear(3, 2)).eval()
    found = survey(model, torch.randn(2, 4), manager)
    assert [(site.name, site.multiply_adds) for site in found.sites] == [("0", 12), ("1", 6)]
    assert found.site("0").reason.startswith("computes outside of any function call")
    assert found.site("0").weight_elements == 15
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.filterwarnings("ignore")
def test_model_that_is_scripted_is_one_site(manager: Manager) -> None:
    found = survey(_scripted(nn.Linear(4, 3)), torch.randn(2, 4), manager)
    assert [(site.name, site.multiply_adds) for site in found.sites] == [(":forward", 12)]


def test_module_with_hooks_has_no_twin(manager: Manager) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    found = survey(model, torch.randn(2, 4), manager)
    assert [(site.name, site.twin is None) for site in found.sites] == [("0", True), ("1", False)]
    assert found.site("0").reason == "has forward hooks"
    assert len(model[0]._forward_hooks) == 1
