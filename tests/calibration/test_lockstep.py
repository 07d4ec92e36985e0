"""Two models in lockstep: the sums of what their layers read, and no more of a forward than needed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from qbench_formats import FORMATS
from qbench_layers.convolution import QuantConv2d
from qbench_layers.linear import QuantLinear
from qbench_modes import MODES
from qbench_suite import LinearMap, Quantizer, Role
from qbench_suite.calibration import Images, Watched, collect
from qbench_suite.calibration.moments import MomentSums, bytes_of
from qbench_suite.scaling.compiling import eager

FORMAT = {format.name: format for format in FORMATS}
MODE = {mode.name: mode for mode in MODES}
QUANTIZERS = {
    Role.WEIGHT: Quantizer(FORMAT["int4"], MODE["channel"]),
    Role.INPUT: Quantizer(FORMAT["int8"], MODE["tensor"]),
}


@pytest.fixture(autouse=True)
def _eager() -> Iterator[None]:
    torch.manual_seed(0)
    with eager(), torch.no_grad():
        yield


class Net(nn.Module):
    """A convolution, a layer that is called twice, and one behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        self.twice, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.ran: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).mT
        x = self.twice(self.twice(x).relu_())
        self.ran.append("head")
        return self.head(x)  # type: ignore[no-any-return]


def pair() -> tuple[Net, Net, dict[str, Watched]]:
    original, converted = Net(), Net()
    layers: dict[str, LinearMap] = {
        "conv": QuantConv2d.from_float(original.conv, QUANTIZERS),
        "twice": QuantLinear.from_float(original.twice, QUANTIZERS),
        "head": QuantLinear.from_float(original.head, QUANTIZERS),
    }
    for name, layer in layers.items():
        setattr(converted, name, layer)
    watched = {name: Watched(original.get_submodule(name), layer) for name, layer in layers.items()}
    return original, converted, watched


def images(held: int = 1) -> list[Images]:
    return [Images(torch.randn(3, 4, 6, 6) + 0.2, index < held, total=9) for index in range(3)]


def test_sums_are_those_of_all_patches_at_once() -> None:
    original, converted, watched = pair()
    batches = images()
    seen = collect(original, converted, watched, batches)
    for name in ("conv", "twice", "head"):
        layer, sums = watched[name].layer, seen[name].fit
        quantized, exact = [], []
        for batch in batches[1:]:
            x, x_hat = _read(original, converted, name, batch.images)
            assert len(x) == len(x_hat) == (2 if name == "twice" else 1)
            quantized += [layer.patches(layer.read(part)) for part in x_hat]
            exact += [layer.patches(part) for part in x]
        q, f = (torch.cat(parts, dim=1).double() for parts in (quantized, exact))
        assert sums.patches == q.shape[1]
        torch.testing.assert_close(sums.moments, q.mT @ q, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(sums.shift, q.mT @ (q - f), rtol=1e-3, atol=1e-4)
    assert seen["conv"].held.patches == 3 * 9
    assert seen["head"].rows == []


def test_the_error_by_sums_is_that_of_the_outputs() -> None:
    original, converted, watched = pair()
    batches = images(held=0)
    seen = collect(original, converted, watched, batches)
    for name in watched:
        layer, sums = watched[name].layer, seen[name].judge
        weight = watched[name].weight()
        values = layer.weight_record().result.values.view_as(weight)
        error = power = 0.0
        for batch in batches:
            x, x_hat = _read(original, converted, name, batch.images)
            for f, q in zip(x, x_hat, strict=True):
                wanted = layer.patches(f).double() @ weight.double().mT
                found = layer.patches(layer.read(q)).double() @ values.double().mT
                error += float((wanted - found).square().sum())
                power += float(wanted.square().sum())
        assert sums.power == pytest.approx(power, rel=1e-5)
        assert sums.error(weight, values) == pytest.approx(error, rel=1e-4)
        expected = 10 * math.log10(power / error)
        assert sums.sqnr_db(error) == pytest.approx(expected, abs=1e-4)


def _read(
    original: nn.Module, converted: nn.Module, name: str, x: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """What the layer ``name`` reads in both models, call by call."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for model, reads in zip((original, converted), found, strict=True):
        module = model.get_submodule(name)
        handle = module.register_forward_pre_hook(
            lambda _, args, reads=reads: reads.append(args[0].clone())
        )
        model(x)
        handle.remove()
    return found


def test_a_forward_ends_with_the_last_layer_watched() -> None:
    original, converted, watched = pair()
    del watched["head"]
    collect(original, converted, watched, images())
    # The first batch alone, which tells how often each layer is called.
    assert original.ran == converted.ran == ["head"]
    assert not original.conv._forward_pre_hooks
    assert not converted.conv._forward_pre_hooks


def test_patches_that_are_not_finite_are_passed_over() -> None:
    original, converted, watched = pair()
    clean, spoiled = torch.randn(2, 4, 6, 6), torch.randn(1, 4, 6, 6)
    spoiled[0, 0, 0, 0] = math.nan
    del watched["twice"], watched["head"]
    batches = [Images(clean, False, 3), Images(spoiled, False, 3)]
    sums = collect(original, converted, watched, batches)["conv"].fit
    # Of nine windows a padded stride of two lets one see the corner.
    assert sums.patches == 3 * 9 - 1
    assert bool(sums.moments.isfinite().all())


def test_a_layer_that_is_never_reached_has_seen_nothing() -> None:
    original, converted, watched = pair()
    spare = nn.Linear(4, 2)
    watched["spare"] = Watched(spare, QuantLinear.from_float(spare, QUANTIZERS))
    seen = collect(original, converted, watched, images())["spare"]
    assert (seen.fit.patches, seen.judge.patches) == (0, 0)
    assert math.isnan(seen.judge.sqnr_db(0.0))


def test_a_sample_is_drawn_by_seed_and_bounded() -> None:
    original, converted, watched = pair()
    rows = {"conv": Watched(original.conv, watched["conv"].layer, rows=12)}
    first, again, other = (
        collect(original, converted, rows, images_of(0), seed=seed)["conv"].sample()
        for seed in (0, 0, 1)
    )
    assert first[0] is not None
    assert again[0] is not None
    assert other[0] is not None
    assert first[0].shape == (2, 12, 18)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    # x̂ and x are the same windows: they differ by the rounding of the input alone.
    assert first[1] is not None
    assert float((first[0] - first[1]).abs().max()) < 0.05


def images_of(seed: int) -> list[Images]:
    torch.manual_seed(seed)
    return images(held=0)


def test_bytes_are_those_of_the_sums() -> None:
    sums = MomentSums.empty(3, 7, torch.device("cpu"))
    held = 2 * (sums.moments.nbytes + sums.shift.nbytes)
    assert bytes_of(3, 7, 0) == held
    assert bytes_of(3, 7, 10) == held + 2 * 4 * 3 * 10 * 7
