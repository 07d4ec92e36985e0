"""NormOperation: what a norm kernel computes: its inputs, the fp64 reference, torch's own, its bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from qbench_suite.norms.requirements import require_tolerances, require_words

#: Tensors and numbers by name; an affine tensor that an option leaves out is None.
Inputs = Mapping[str, Any]
#: Tensors in the order of ``NormOperation.outputs``.
Outputs = tuple[Tensor, ...]
#: A call without arguments, whose set-up is done: what is timed.
Thunk = Callable[[], Outputs]

#: Which affine tensors an operation is given: ``one_plus_weight`` scales by 1 + weight.
Affine = Literal["weight_bias", "weight", "one_plus_weight", "none"]


@dataclass(frozen=True)
class NormProblem:
    """One point at which an operation is asked: a shape, a dtype, and how its inputs are drawn."""

    #: Lengths of the axes of ``x``, as in case ids: ``2048x4096``.
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    affine: Affine | None = None
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sampler(self) -> Sampler:
        """Draws the inputs, the same for the same problem."""
        return Sampler(self.dtype, torch.Generator(self.device).manual_seed(self.seed))


@dataclass(frozen=True)
class Sampler:
    """Draws tensors of a dtype from one stream of random numbers."""

    dtype: torch.dtype
    generator: torch.Generator

    def normal(self, *shape: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
        """Normal values, drawn in float32 and rounded to the dtype."""
        device = self.generator.device
        values = torch.randn(shape, generator=self.generator, device=device)
        return values.mul_(std).add_(mean).to(self.dtype)

    def affine(self, option: Affine | None, length: int) -> dict[str, Any]:
        """``weight`` around 1 (0 for ``one_plus_weight``) and ``bias`` around 0, or None for either."""
        option = option or "weight_bias"
        weight = None
        if option != "none":
            mean = 0.0 if option == "one_plus_weight" else 1.0
            weight = self.normal(length, mean=mean, std=0.25)
        bias = self.normal(length, std=0.25) if option == "weight_bias" else None
        offset = 1.0 if option == "one_plus_weight" else 0.0
        return {"weight": weight, "bias": bias, "weight_offset": offset}


def each_once(inputs: Inputs, outputs: Outputs, unread: tuple[str, ...] = ()) -> int:
    """Bytes of every input tensor but the ``unread`` read once and every output written once."""
    read = [
        value for name, value in inputs.items() if isinstance(value, Tensor) and name not in unread
    ]
    return sum(tensor.nbytes for tensor in (*read, *outputs))


#: Largest error of a forward output, and of a gradient, in units in the last place.
FORWARD_ULPS = {"float32": 6.0, "float16": 1.0, "bfloat16": 1.0}
BACKWARD_ULPS = {"float32": 32.0, "float16": 2.0, "bfloat16": 2.0}
DIRECTION_ULPS = {"forward": FORWARD_ULPS, "backward": BACKWARD_ULPS}


@dataclass(frozen=True, kw_only=True, eq=False)
class NormOperation:
    """A normalization, or its backward: what every kernel of that name computes.

    Two operations are the same where they are the same object; plugins that bring an operation of
    their own share it by name.

    Outputs of floats are compared in ulps; those of integers and bool are the same as the reference's in
    every element, or wrong (codes of ``quantized`` operations apart).

    Raises:
        KernelError: ``outputs``, ``affine``, ``shapes`` or ``fused`` is no tuple of names, ``affine`` holds
            an option that there is not, ``tolerance_ulps`` a dtype that there is not.
    """

    #: Name in case ids, made of ``[A-Za-z0-9_.+]``.
    name: str
    #: Names of its outputs, in order.
    outputs: tuple[str, ...]
    #: Draws the inputs of a problem, by name.
    inputs: Callable[[NormProblem], dict[str, Any]]
    #: The outputs in float64 (integers and bool as they are), of inputs whose floating tensors are
    #: float64 already.
    reference: Callable[[Inputs], Outputs]
    #: Torch's own eager operations on the inputs as they are: what errors and times are compared with.
    eager: Callable[[Inputs], Thunk]
    #: Shapes of the default grid, and those added to it where there is an accelerator.
    shapes: tuple[str, ...]
    large_shapes: tuple[str, ...] = ()
    #: Number of axes that a shape has.
    rank: int = 2
    #: Affine options it has; the first is the default.
    affine: tuple[Affine, ...] = ("weight_bias", "weight", "one_plus_weight", "none")
    direction: Literal["forward", "backward"] = "forward"
    #: Memory order of ``x``: rows, or the axes of images.
    layout: Literal["rows", "nchw", "nhwc"] = "rows"
    #: What is fused with the norm: ``residual``, ``gate``, ``quantize``, ``attention``.
    fused: tuple[str, ...] = ()
    #: Format and mode of its ``codes`` and ``scales`` outputs, as registered; None where it has none.
    #: ``mode`` is ``static`` where the scale is an input.
    quantized: tuple[str, str] | None = None
    #: Of a backward: the forward it belongs to, and the gradients of any differentiable way to compute
    #: that: ``gradients_of(inputs, run)``, ``run`` from the forward's inputs to its outputs.
    forward: NormOperation | None = None
    gradients_of: Callable[[Inputs, Callable[[Inputs], Outputs]], Thunk] | None = None
    #: Bytes a perfect kernel moves.
    bytes_moved: Callable[[Inputs, Outputs], int] = each_once
    #: Largest error by dtype in ulps of the output's dtype, at the larger of |reference| and its rms;
    #: that of ``direction`` of a dtype it does not name, 0 of integers.
    tolerance_ulps: Mapping[str, float] = field(default_factory=lambda: dict(FORWARD_ULPS))
    #: One line: the formula.
    description: str = ""

    def __post_init__(self) -> None:
        """Refuse what would otherwise give no case, or fail far from here."""
        of = f"of the norm operation {self.name}"
        require_words(f"outputs {of}", self.outputs)
        require_words(f"shapes {of}", self.shapes)
        require_words(f"large_shapes {of}", self.large_shapes, some=False)
        require_words(f"affine {of}", self.affine, get_args(Affine))
        require_words(f"fused {of}", self.fused, some=False)
        require_tolerances(f"tolerance_ulps {of}", self.tolerance_ulps)

    def exact(self, inputs: Inputs) -> Outputs:
        """The reference outputs in float64 of ``inputs``, whatever dtype those have."""
        return self.reference({name: _exact(value) for name, value in inputs.items()})


def _exact(value: Any) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.double() if floating else value


def backward_of(
    forward: NormOperation,
    *,
    gradients: Mapping[str, str],
    seeds: tuple[str, ...] = ("dy",),
    unread: tuple[str, ...] = (),
    **fields: Any,
) -> NormOperation:
    """The backward of ``forward``: gradients of its first ``len(seeds)`` outputs, by autograd.

    ``gradients``: output name of each gradient, and the input of ``forward`` that it belongs to;
    inputs that are None have none. ``seeds``: names of the incoming gradients. ``unread``: inputs of
    ``forward`` that no gradient depends on. ``fields``: those of ``NormOperation`` that differ from
    the forward's.
    """

    def thunk(inputs: Inputs, run: Callable[[Inputs], Outputs]) -> Thunk:
        leaves = {
            name: inputs[name].detach().requires_grad_()
            for name in gradients.values()
            if inputs[name] is not None
        }
        with torch.enable_grad():
            outputs = run({**inputs, **leaves})[: len(seeds)]
        incoming = [inputs[seed] for seed in seeds]
        asked = list(leaves.values())
        return lambda: torch.autograd.grad(outputs, asked, incoming, retain_graph=True)

    described: dict[str, Any] = {
        "name": f"{forward.name}_backward",
        "outputs": tuple(gradients),
        "inputs": functools.partial(_with_seeds, forward, seeds),
        "reference": lambda given: thunk(given, forward.reference)(),
        "eager": lambda given: thunk(given, lambda leaves: forward.eager(leaves)()),
        "shapes": forward.shapes,
        "large_shapes": forward.large_shapes,
        "rank": forward.rank,
        "affine": forward.affine,
        "direction": "backward",
        "forward": forward,
        "gradients_of": thunk,
        "bytes_moved": functools.partial(each_once, unread=unread),
        "layout": forward.layout,
        "fused": forward.fused,
        "tolerance_ulps": dict(BACKWARD_ULPS),
        "description": f"gradients of {forward.name}",
    }
    return NormOperation(**{**described, **fields})


def _with_seeds(
    forward: NormOperation, seeds: tuple[str, ...], problem: NormProblem
) -> dict[str, Any]:
    """The inputs of ``forward``, and in front of them a gradient of each of its first outputs."""
    drawn = forward.inputs(problem)
    outputs = forward.eager(drawn)()
    sampler = NormProblem(
        problem.shape, problem.dtype, seed=problem.seed + 1, device=problem.device
    )
    draw = sampler.sampler()
    made = {
        seed: torch.empty_like(output).copy_(draw.normal(*output.shape))
        for seed, output in zip(seeds, outputs, strict=False)
    }
    return {**made, **drawn}
