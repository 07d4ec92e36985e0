"""kernel in policies: which layers it is for, what it may not be, and what takes it in the end."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qbench_suite import LayerError, LinearEntry, Manager, QuantModule, Role, hookimpl
from qbench_suite.convert.assign import assign
from qbench_suite.convert.kernels import attach_kernels
from qbench_suite.convert.policy import Policy, read_policy
from qbench_suite.convert.resolve import check_policy
from qbench_suite.convert.survey import survey
from qbench_suite.convert.swap import ConvertedModel, convert
from qbench_suite.errors import PolicyError
from qbench_suite.layers import LinearMap
from qbench_suite.manager import default_manager

CPU = torch.device("cpu")
EIGHT = "weight_format: int8\nweight_mode: channel\n"


class Doubled(nn.Module):
    """Twice what a converted layer computes, so that its use shows; its weights are as they were."""

    def __init__(self, layer: QuantModule) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def dequantize(self) -> Tensor:
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = nn.functional.linear(x, self.weight, self.bias)
        return 2 * y


class Shifted(Doubled):
    """Forgets the lowest bit of its weights."""

    def dequantize(self) -> Tensor:
        return self.weight * (1 + 2**-23)


def wide(layer: QuantModule) -> nn.Module:
    """Layers of more than four inputs only."""
    if layer.in_features < 5:
        raise LayerError(f"it has 5 inputs or more; this layer has {layer.in_features}")
    return Doubled(layer)


def entry(name: str, adopt: Callable[[QuantModule], nn.Module] | None) -> LinearEntry:
    return LinearEntry(name=name, build=lambda linear: linear, format="int8", adopt=adopt)


def no_library(device: torch.device) -> str:
    return f"no library for {device}"


ENTRIES = (
    entry("doubled", Doubled),
    entry("shifted", Shifted),
    entry("wide", wide),
    entry("floats", None),
    replace(entry("absent", Doubled), unavailable=no_library),
)


@pytest.fixture(scope="module")
def manager() -> Manager:
    plugin = types.ModuleType("guest")

    def hook(register: Callable[[object], None]) -> None:
        for made in ENTRIES:
            register(made)

    specname = "qbench_register_linears"
    setattr(plugin, specname, hookimpl(specname=specname)(hook))
    found = default_manager(disabled=["qbench_w8a16", "qbench_linears"])
    found.register(plugin)
    return found


def read(folder: Path, text: str) -> Policy:
    path = folder / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return read_policy(path)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 4), nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)
    ).eval()


def converted(policy: Policy, manager: Manager) -> ConvertedModel:
    float_model = model()
    found = survey(float_model, torch.randn(2, 3, 4, 4), manager)
    return convert(float_model, found, assign(policy, found, manager))


def reasons(folder: Path, text: str, manager: Manager) -> dict[str, str]:
    policy = read(folder, text)
    return attach_kernels(converted(policy, manager), policy, CPU)


def test_it_is_a_key_of_the_policy_and_of_every_entry(tmp_path: Path, manager: Manager) -> None:
    text = f"""{EIGHT}kernel: doubled
types:
  Conv2d: {{kernel: none}}
layers:
  "2": {{kernel: wide}}
last_layer: {{weight_mode: tensor}}
"""
    policy = read(tmp_path, text)
    model = converted(policy, manager)
    named = {a.site.name: a.kernel.name for a in model.assignments if a.kernel}
    assert named == {"2": "wide", "4": "doubled"}
    assert policy.kernels == ("doubled", "wide")
    text = f"{EIGHT}kernel: doubled\nfirst_layer: none\nlayers:\n  '2': none\n"
    assert reasons(tmp_path, text, manager) == {"4": ""}, "what stays float has no kernel"


def test_a_kernel_multiplies_between_the_quantizers(tmp_path: Path, manager: Manager) -> None:
    text = f"{EIGHT}input_format: int8\noutput_format: int8\n"
    x = torch.randn(3, 3, 4, 4)
    policy = read(tmp_path, text + "last_layer: {kernel: doubled}\n")
    plain, given = (converted(policy, manager) for _ in range(2))
    assert attach_kernels(given, policy, CPU) == {"4": ""}
    seen = {}
    for role in (Role.INPUT, Role.OUTPUT):
        for made, one in (("plain", plain), ("given", given)):
            layer = one.layers["4"]
            layer.clear_record()
            layer.record = True
            one(x)
            (seen[made, role],) = (
                q.result.values for q in layer.quantized_tensors() if q.role is role
            )
    assert torch.equal(seen["plain", Role.INPUT], seen["given", Role.INPUT])
    # A scale that is twice as large: the same codes.
    assert torch.equal(2 * seen["plain", Role.OUTPUT], seen["given", Role.OUTPUT])
    assert torch.equal(given(x), 2 * plain(x))


def test_other_weights_take_the_kernel_away(tmp_path: Path, manager: Manager) -> None:
    policy = read(tmp_path, EIGHT + "last_layer: {kernel: doubled}\n")
    plain, given = (converted(policy, manager) for _ in range(2))
    attach_kernels(given, policy, CPU)
    layer = given.layers["4"]
    assert isinstance(layer, LinearMap)
    layer.set_weight(layer.weight_record().result.values.clone())
    x = torch.randn(3, 3, 4, 4)
    assert torch.equal(given(x), plain(x))


def test_layers_that_a_kernel_does_not_compute_stay_emulated(
    tmp_path: Path, manager: Manager
) -> None:
    assert reasons(tmp_path, EIGHT + "kernel: wide\n", manager) == {
        "0": "kernels compute linear layers; this is Conv2d",
        "2": "it has 5 inputs or more; this layer has 4",
        "4": "",
    }
    assert reasons(tmp_path, EIGHT, manager) == {}


def test_digests_of_policies_without_a_kernel_are_what_they_were(tmp_path: Path) -> None:
    plain = read(tmp_path, EIGHT)
    # As it was before there were kernels: results in caches stay valid.
    assert plain.digest == "515a0c2d161e"
    texts = ["kernel: doubled\n", "kernel: wide\n", "layers:\n  '4': {kernel: wide}\n"]
    digests = {read(tmp_path, EIGHT + text).digest for text in texts}
    assert len(digests | {plain.digest}) == 4


MISTAKES = [
    (EIGHT + "kernel: doubld\n", 3, "got 'doubld'; did you mean doubled"),
    (EIGHT + "last_layer:\n  kernel: wode\n", 4, "got 'wode'; did you mean wide"),
    (EIGHT + "kernel:\n", 3, "kernel has a value; got nothing"),
    (EIGHT + "kernel: 8\n", 3, "write for instance w8a16"),
    (EIGHT + "weight_kernel: wide\n", 3, "got 'weight_kernel'"),
    (
        EIGHT + "kernel: floats\n",
        3,
        "got floats, which quantizes float layers by itself; choose among absent, doubled, shifted, wide",
    ),
    (
        "input_format: int8\nkernel: wide\n",
        2,
        "weights that are quantized are multiplied by a kernel; got kernel: wide, and no format",
    ),
    (
        "input_format: int8\nlayers:\n  '4': {kernel: wide}\n",
        3,
        "weights that are quantized are multiplied by a kernel",
    ),
]


@pytest.mark.parametrize(("text", "line", "words"), MISTAKES)
def test_mistakes_have_a_line(
    tmp_path: Path, manager: Manager, text: str, line: int, words: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        check_policy(read(tmp_path, text), manager)
    assert f"p.yaml, line {line}: " in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("types:\n  Conv2d: {kernel: wide}\n", 4, "none (0: kernels compute linear layers"),
        ("layers:\n  '2': {kernel: wide}\n", 4, "none (2: it has 5 inputs or more"),
        ("kernel: shifted\nfirst_layer: none\n", 3, "none (2: shifted keeps weights bit for bit"),
        (
            "kernel: doubled\ntypes:\n  ReLU: {kernel: wide}\n",
            5,
            "got wide, which takes none (no weights are left for it)",
        ),
        (
            "kernel: doubled\ntypes:\n  Linear: {kernel: wide}\n  Conv2d: {kernel: none}\n",
            3,
            "got doubled, which takes none (no weights are left for it)",
        ),
    ],
)
def test_a_kernel_that_takes_no_layer_is_a_mistake(
    tmp_path: Path, manager: Manager, text: str, line: int, words: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        reasons(tmp_path, EIGHT + text, manager)
    assert f"p.yaml, line {line}: a kernel computes a layer of the model" in str(caught.value)
    assert words in str(caught.value)


def test_an_optional_entry_may_serve_none(tmp_path: Path, manager: Manager) -> None:
    for pattern in ("Conv2d", "LayerNorm"):
        text = f"{EIGHT}types:\n  {pattern}: {{kernel: wide, optional: true}}\n"
        assert all(reasons(tmp_path, text, manager).values())


def test_a_kernel_without_its_library_says_so(tmp_path: Path, manager: Manager) -> None:
    with pytest.raises(LayerError, match="absent does not: no library for cpu"):
        reasons(tmp_path, EIGHT + "kernel: absent\n", manager)
