"""Which modules are replaced, which stay float and why, and where their features lie."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qbench_suite import LayerError, Manager
from qbench_suite.convert.replacements import UNSEEN, hooked, replacements

MakeManager = Callable[..., Manager]


class Renamed(nn.Linear):
    """A subclass that computes what its base does."""


class Twisted(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flip(-1)


def test_exact_types_and_subclasses_with_the_same_forward_are_replaced(
    make_manager: MakeManager,
) -> None:
    model = nn.Sequential(nn.Linear(2, 2), Renamed(2, 2), Twisted(2, 2), nn.Tanh(), nn.Dropout())
    found, left = replacements(model, make_manager())
    assert {name: r.layer.__name__ for name, r in found.items()} == {
        "0": "TinyLinear",
        "1": "TinyLinear",
    }
    assert found["1"].module is model[1]
    assert sorted(left) == ["2", "3", "4"]


def test_module_left_float_says_its_type_and_why(make_manager: MakeManager) -> None:
    _, left = replacements(nn.Sequential(nn.Tanh(), nn.Dropout()), make_manager())
    assert left["0"].module_type == "Tanh"
    assert left["0"].reason.endswith("replaces torch.nn.modules.activation.Tanh")
    assert left["0"].loses_coverage
    assert left["1"].reason == "computes nothing at inference"
    assert not left["1"].loses_coverage


@pytest.mark.parametrize("name", ["StochasticDepth", "Permute"])
def test_modules_of_torchvision_that_only_move_or_drop_lose_nothing(
    make_manager: MakeManager, name: str
) -> None:
    ops = pytest.importorskip("torchvision.ops")
    module = {"StochasticDepth": (0.1, "row"), "Permute": ([0, 2, 1],)}[name]
    kind = getattr(ops, name, None) or ops.misc.Permute
    _, left = replacements(nn.Sequential(kind(*module)), make_manager())
    assert not left["0"].loses_coverage


@pytest.mark.filterwarnings("ignore")
def test_scripted_module_is_left_as_one(make_manager: MakeManager) -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    found, left = replacements(nn.Sequential(scripted, nn.Linear(2, 2)), make_manager())
    assert list(found) == ["1"]
    assert {name: why.reason for name, why in left.items()} == {"0": UNSEEN}


def test_hooks_that_make_weights_are_none(make_manager: MakeManager) -> None:
    normed = nn.utils.spectral_norm(nn.Linear(2, 2))
    other, own = nn.Linear(2, 2), nn.Linear(2, 2)
    other.register_forward_pre_hook(lambda module, args: None)
    own.forward = lambda x: x  # type: ignore[method-assign]
    assert [hooked(m) for m in (normed, other, own, nn.Linear(2, 2))] == [False, True, True, False]


def test_layer_that_names_the_type_outranks_one_that_names_its_base(
    make_manager: MakeManager,
) -> None:
    base = make_manager().layers.get("TinyLinear").layer
    names = {"float_types": (f"{Renamed.__module__}.Renamed",)}
    exact = type("ZExactLinear", (base,), names)
    model = nn.Sequential(Renamed(2, 2), nn.Linear(2, 2))
    found, _ = replacements(model, make_manager(layers=[exact]))
    assert [r.layer.__name__ for r in found.values()] == ["ZExactLinear", "TinyLinear"]


def test_layer_of_a_library_that_is_absent_costs_nothing(make_manager: MakeManager) -> None:
    base = make_manager().layers.get("TinyLinear").layer
    absent = type("QuantAbsent", (base,), {"float_types": ("no_such_library.Linear",)})
    found, _ = replacements(nn.Sequential(nn.Linear(2, 2)), make_manager(layers=[absent]))
    assert found["0"].layer.__name__ == "TinyLinear"


class Block(nn.Module):
    """Children of these types, in order, each called by its number."""

    def __init__(self, *children: nn.Module) -> None:
        super().__init__()
        for i, child in enumerate(children):
            self.add_module(str(i), child)


@pytest.mark.parametrize(
    ("before", "axis"),
    [
        ([nn.Linear(2, 2)], -1),  # the MLP of an NHWC block
        ([nn.Conv2d(2, 2, 1)], 1),
        ([nn.BatchNorm2d(2)], 1),
        ([nn.GroupNorm(1, 2)], 1),
        ([nn.LayerNorm(2)], -1),
        ([nn.Conv2d(2, 2, 1), nn.Linear(2, 2), nn.Dropout()], -1),
        ([nn.Linear(2, 2), nn.Conv2d(2, 2, 1)], 1),
        ([nn.Dropout()], None),
        ([], None),
    ],
)
def test_features_lie_where_the_nearest_sibling_before_has_them(
    make_manager: MakeManager, before: list[nn.Module], axis: int | None
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), Block(*before, nn.ReLU(), nn.Linear(2, 2)))
    found, _ = replacements(model, make_manager())
    assert found[f"1.{len(before)}"].feature_axis == axis


def test_shared_module_is_replaced_under_one_name(make_manager: MakeManager) -> None:
    act = nn.ReLU()
    found, _ = replacements(nn.Sequential(act, nn.Linear(2, 2), act), make_manager())
    assert list(found) == ["0", "1"]


def test_two_layers_with_the_same_claim_are_refused_by_their_owners(
    make_manager: MakeManager,
) -> None:
    manager = make_manager()
    base = manager.layers.get("TinyReLU").layer
    rival = type("ARival", (base,), {"float_types": base.float_types})
    manager = make_manager(layers=[rival])
    with pytest.raises(LayerError, match=r"claimed by ARival of .* and TinyReLU of"):
        replacements(nn.Sequential(nn.ReLU()), manager)
