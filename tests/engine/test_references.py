"""References: what a layer reads and gives in its model, whatever fits into memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qbench_suite import DatasetError, Manager, ModelError
from qbench_suite.engine.pool import LoadedModel, ModelPool
from qbench_suite.engine.references import ReferenceStore

MakeManager = Callable[..., Manager]
IMAGES = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def store(limit: int = 1 << 20) -> ReferenceStore:
    return ReferenceStore(limit, lambda model: IMAGES)


@pytest.fixture
def load(make_manager: MakeManager) -> Callable[[Callable[[], nn.Module]], LoadedModel]:
    """A model, as the pool loads it."""

    def load(build: Callable[[], nn.Module]) -> LoadedModel:
        torch.manual_seed(0)
        return ModelPool(make_manager({"m": build}), 1 << 20, torch.device("cpu")).get("m")

    return load


Load = Callable[[Callable[[], nn.Module]], LoadedModel]


def chain(*, inplace: bool = False) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(48, 9), nn.ReLU(inplace), nn.Linear(9, 7), nn.ReLU(inplace)
    )


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("limit", [1 << 20, 700, 1])
def test_references_are_right_whatever_fits_and_whatever_works_in_place(
    load: Load, limit: int, inplace: bool
) -> None:
    model, held = load(lambda: chain(inplace=inplace)), store(limit)
    layers = list(model.module.children())
    x = layers[0](IMAGES)
    for i in range(1, 5):
        y = torch.relu(x) if i in (2, 4) else layers[i](x)
        for _ in range(2):
            reference = held.get(model, str(i))
            assert torch.equal(reference.args[0], x)
            assert torch.equal(reference.output, y)
            assert reference.input_range.max == float(x.max())
            assert (reference.batch, reference.kwargs) == (6, {})
        x = y
    assert held.passes["m"] == (1 if limit > 10_000 else pytest.approx(3, abs=1))


def test_any_order_of_layers_is_answered_under_a_tiny_bound(load: Load) -> None:
    model, held = load(chain), store(1)
    wide = store()
    for name in ("4", "1", "3", "2", "1"):
        assert torch.equal(held.get(model, name).output, wide.get(model, name).output)


class Backwards(nn.Module):
    """Holds its layers in another order than it calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(48, 5)
        self.body = nn.Linear(48, 48)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x.flatten(1)))
        return y


@pytest.mark.parametrize("limit", [1 << 20, 1])
def test_layers_may_be_called_in_another_order_than_they_are_held(load: Load, limit: int) -> None:
    model, held = load(Backwards), store(limit)
    body = held.get(model, "body").output
    assert torch.equal(held.get(model, "head").args[0], body)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.act(x) - 1)
        return y


def test_first_of_several_calls_counts(load: Load) -> None:
    assert torch.equal(store().get(load(Twice), "act").args[0], IMAGES)


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(input=x.clone())
        return y


def test_tensors_given_by_name_are_references_too(load: Load) -> None:
    reference = store().get(load(ByName), "act")
    assert reference.args == ()
    assert torch.equal(reference.kwargs["input"], IMAGES)
    assert reference.input_range.min == float(IMAGES.min())


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        y: Tensor = self.attention(x, x, value=x * 2)[0]
        return y


def test_the_first_of_several_tensors_is_the_output_and_one_passed_twice_stays_one(
    make_manager: MakeManager,
) -> None:
    base = make_manager().layers.get("TinyReLU").layer
    names = {"float_types": ("torch.nn.MultiheadAttention",)}
    manager = make_manager({"m": Attending}, layers=[type("QuantAttending", (base,), names)])
    model = ModelPool(manager, 1 << 20, torch.device("cpu")).get("m")
    reference = store().get(model, "attention")
    assert torch.equal(reference.output, model.module(IMAGES))
    query, key = reference.args
    assert query is key
    assert torch.equal(reference.kwargs["value"], 2 * query)
    assert torch.equal(query, IMAGES.flatten(2))
    assert query.data_ptr() != IMAGES.data_ptr()


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.used(x)
        return y


def test_layer_that_is_never_called_is_an_error_with_a_remedy(load: Load) -> None:
    model, held = load(Unused), store()
    for _ in range(2):
        with pytest.raises(ModelError, match="'unused' of 'm' is never called") as caught:
            held.get(model, "unused")
    assert "--qbench-layers" in str(caught.value)
    assert held.get(model, "used").output.min() >= 0
    # The first forward captured every layer that was called.
    assert held.passes["m"] == 1


def test_model_that_raises_names_itself_and_leaves_no_hooks(load: Load) -> None:
    model = load(lambda: nn.Sequential(nn.Linear(5, 5)))
    with pytest.raises(ModelError, match="'m' raised RuntimeError"):
        store().get(model, "0")
    assert not model.module[0]._forward_hooks  # type: ignore[index]
    assert not model.module[0]._forward_pre_hooks  # type: ignore[index]


def test_error_of_the_dataset_is_not_blamed_on_the_model(load: Load) -> None:
    def images(model: LoadedModel) -> Tensor:
        raise DatasetError("Choose another one.")

    with pytest.raises(DatasetError, match=r"^Choose another one\.$"):
        ReferenceStore(1, images).get(load(chain), "1")


def test_models_are_told_apart(make_manager: MakeManager) -> None:
    pool = ModelPool(make_manager({"a": chain, "b": chain}), 1 << 20, torch.device("cpu"))
    held = store()
    a, b = (held.get(pool.get(name), "1").output for name in "ab")
    assert not torch.equal(a, b), "each was built with weights of its own"
