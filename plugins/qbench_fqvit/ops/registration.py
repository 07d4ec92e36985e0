"""The operators as PyTorch sees them: schemas, what runs on each device, and their shapes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qbench_fqvit.ops import checks, eager, native

_NAMESPACE = "qbench_fqvit"

#: Held as long as the process: the operators go where it goes.
_LIBRARY = torch.library.Library(_NAMESPACE, "DEF")  # type: ignore[no-untyped-call]

_LINEAR = "Tensor x, Tensor weight, Tensor? bias"
_SOFTMAX = "Tensor multiplier, int shift, Tensor exp_table, Tensor? bias"
_SCHEMAS = {
    "layer_norm": "Tensor x, Tensor shift, Tensor gain, Tensor bias",
    "gemm": _LINEAR,
    "requantize": "Tensor acc, Tensor multiplier, Tensor shift, int zero_point",
    "requantize_lookup": (
        "Tensor acc, Tensor multiplier, Tensor shift, int zero_point, Tensor table"
    ),
    "residual": (
        "Tensor x, Tensor acc, Tensor x_multiplier, Tensor acc_multiplier, Tensor shift, int bits"
    ),
    "linear_requantize": (
        f"{_LINEAR}, Tensor multiplier, Tensor shift, int zero_point, Tensor? table"
    ),
    "linear_residual": (
        f"{_LINEAR}, Tensor stream, Tensor stream_multiplier, Tensor multiplier, Tensor shift, "
        "int bits"
    ),
    "scores": "Tensor q, Tensor k",
    "softmax_codes": f"Tensor scores, {_SOFTMAX}, str code",
    "context": "Tensor codes, Tensor v, str code",
    "attention": f"Tensor qkv, {_SOFTMAX}, Tensor out_multiplier, Tensor out_shift, str code",
}


def _stream_type(bits: int) -> torch.dtype:
    return torch.int8 if bits == 8 else torch.int16


def _like(x: Tensor, *, last: int | torch.SymInt | None = None, dtype: torch.dtype) -> Tensor:
    shape = x.shape if last is None else (*x.shape[:-1], last)
    return x.new_empty(shape, dtype=dtype)


#: What each operator returns: a new contiguous tensor of this shape and type.
_RESULTS: dict[str, Callable[..., Tensor]] = {
    "layer_norm": lambda x, *_: _like(x, dtype=torch.int8),
    "gemm": lambda x, weight, _: _like(x, last=weight.shape[0], dtype=torch.int32),
    "requantize": lambda acc, *_: _like(acc, dtype=torch.int8),
    "requantize_lookup": lambda acc, *_: _like(acc, dtype=torch.int8),
    "residual": lambda x, *rest: _like(x, dtype=_stream_type(rest[-1])),
    "linear_requantize": lambda x, weight, *_: _like(x, last=weight.shape[0], dtype=torch.int8),
    "linear_residual": lambda x, weight, *rest: _like(
        x, last=weight.shape[0], dtype=_stream_type(rest[-1])
    ),
    "scores": lambda q, k: _like(q, last=k.shape[2], dtype=torch.int32),
    "softmax_codes": lambda scores, *_: _like(scores, dtype=torch.uint8),
    "context": lambda codes, v, _: _like(codes, last=v.shape[3], dtype=torch.int32),
    "attention": lambda qkv, *_: qkv.new_empty((*qkv.shape[:2], qkv.shape[3] * qkv.shape[4])),
}


def _checked(name: str, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    check: Callable[..., None] = getattr(checks, name.removesuffix("_lookup"))

    def kernel(*operands: object) -> Tensor:
        check(*operands)
        return run(*operands)

    return kernel


def _eager(name: str) -> Callable[..., Tensor]:
    compute: Callable[..., Tensor] = getattr(eager, name)
    return lambda *operands: compute(*operands).contiguous()


def _on_cpu(name: str) -> Callable[..., Tensor]:
    """The C++ operator, found on its first call, else the eager one."""
    found: list[Callable[..., Tensor]] = []

    def run(*operands: object) -> Tensor:
        if not found:
            compiled = native.kernels()
            found.append(_eager(name) if compiled is None else getattr(compiled, name))
        return found[0](*operands)

    return run


def _register(name: str) -> None:
    schema = f"{name}({_SCHEMAS[name]}) -> Tensor"
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    anywhere = _checked(name, _eager(name))
    _LIBRARY.impl(name, anywhere, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    _LIBRARY.impl(name, _checked(name, _on_cpu(name)), "CPU")  # type: ignore[no-untyped-call]
    torch.library.register_fake(
        f"{_NAMESPACE}::{name}", _checked(name, _RESULTS[name]), lib=_LIBRARY
    )


for _name in _SCHEMAS:
    _register(_name)


def overload(name: str) -> Callable[..., Tensor]:
    """The registered operator, past the look-ups by name."""
    found: Callable[..., Tensor] = getattr(getattr(torch.ops, _NAMESPACE), name).default
    return found
