"""The integer operators of a vision transformer block: integer tensors in, integer tensors out.

All are registered with PyTorch under ``qbench_fqvit``, and so are known to ``torch.export``,
``torch.compile`` and dispatch modes. ``mult[c]`` and ``shift[c]`` stand for the factor
``mult / 2^shift`` of channel c, with int32 ``mult`` and shifts of 1 to 62:

    scale(a)[c] = (a · mult[c] + 2^(shift[c] - 1)) >> shift[c]

in 64 bits: halves round up, and no int32 ``a`` and ``mult`` overflow. Accumulators wrap beyond
int32, which inputs of the stated sizes do not reach. Every operator raises ``LayerError`` for an
operand of another type or shape. What tensors hold is not looked at in a call: a block checks its
own once, when it is loaded, and who calls an operator directly keeps to the stated ranges.
"""

from __future__ import annotations

from torch import Tensor

from qbench_fqvit.ops.registration import overload

_layer_norm = overload("layer_norm")
_gemm = overload("gemm")
_requantize = overload("requantize")
_requantize_lookup = overload("requantize_lookup")
_residual = overload("residual")
_linear_requantize = overload("linear_requantize")
_linear_residual = overload("linear_residual")
_scores = overload("scores")
_softmax_codes = overload("softmax_codes")
_context = overload("context")
_attention = overload("attention")


def layer_norm(x: Tensor, shift: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Layer normalization of codes with a power-of-two factor per channel.

    ``v = x << shift``, ``s = Σ v``, ``R = isqrt(max(C Σ v² - s², 1))``, ``r = 30 + floor(log2 R)``,
    ``n = ((C v - s) · floor(2^r / R)) >> (r - 12)``, ``y = ((n · gain + 2^23) >> 24) + bias``,
    clamped to int8. A constant row gives ``bias``: no epsilon is needed.

    ``x`` int8 or int16 (..., C); ``shift`` int8 (C,), not negative; ``gain`` int32 (C,), the weight
    over the output scale times 2^12; ``bias`` int32 (C,), in output codes → int8 (..., C).
    Nothing overflows while ``C · max|v| ≤ 2^31``.
    """
    return _layer_norm(x, shift, gain, bias)


def gemm(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, exact.

    ``x`` int8 or uint8 (..., K), ``weight`` int8 (N, K), ``bias`` int32 (N,) → int32 (..., N).
    K is at most 65 536, where 255 · 128 · K still fits int32.
    """
    return _gemm(x, weight, bias)


def requantize(acc: Tensor, multiplier: Tensor, shift: Tensor, zero_point: int = 0) -> Tensor:
    """``clamp(scale(acc) + zero_point)``: int32 (..., N) → int8 (..., N)."""
    return _requantize(acc, multiplier, shift, zero_point)


def requantize_lookup(
    acc: Tensor, multiplier: Tensor, shift: Tensor, zero_point: int, table: Tensor
) -> Tensor:
    """``table[requantize(acc) + 128]``: any activation function, from int8 to int8.

    ``acc`` int32 (..., N), ``table`` int8 (256,), first the value of -128 → int8 (..., N).
    """
    return _requantize_lookup(acc, multiplier, shift, zero_point, table)


def residual(
    x: Tensor,
    acc: Tensor,
    x_multiplier: Tensor,
    acc_multiplier: Tensor,
    shift: Tensor,
    bits: int = 8,
) -> Tensor:
    """``clamp((x · x_multiplier + acc · acc_multiplier + 2^(shift-1)) >> shift)`` per channel.

    ``x`` int8 or int16 (..., C), ``acc`` int32 (..., C), multipliers int32 (C,), ``shift`` int8
    (C,) → int8 (..., C), or int16 where ``bits`` is 16.
    """
    return _residual(x, acc, x_multiplier, acc_multiplier, shift, bits)


def linear_requantize(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    multiplier: Tensor,
    shift: Tensor,
    zero_point: int = 0,
    table: Tensor | None = None,
) -> Tensor:
    """``requantize(gemm(x, weight, bias))``, or with a table ``requantize_lookup``, in one pass."""
    return _linear_requantize(x, weight, bias, multiplier, shift, zero_point, table)


def linear_residual(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stream: Tensor,
    stream_multiplier: Tensor,
    multiplier: Tensor,
    shift: Tensor,
    bits: int = 8,
) -> Tensor:
    """``residual(stream, gemm(x, weight, bias), …)`` in one pass; ``stream`` is (..., N)."""
    return _linear_residual(x, weight, bias, stream, stream_multiplier, multiplier, shift, bits)


def scores(q: Tensor, k: Tensor) -> Tensor:
    """``q @ k.T`` of every head: int8 (B, H, T, D), int8 (B, H, S, D) → int32 (B, H, T, S)."""
    return _scores(q, k)


def softmax_codes(
    scores: Tensor,
    multiplier: Tensor,
    shift: int,
    exp_table: Tensor,
    bias: Tensor | None = None,
    code: str = "log8",
) -> Tensor:
    """Softmax over the last axis, in codes of a byte.

    ``x = clamp(scale(scores + bias))`` in int8 with one factor a head, ``d = max x - x``,
    ``e = exp_table[d]`` and with ``sum = Σ e``:

    * ``"uniform8"``: ``min(255, floor(256 e / sum + 1/2))``. A code c weighs ``c / 256``.
    * ``"lis4"``, Log-Int-Softmax: ``v = floor(sum / e + 1/2)``, ``k = floor(log2 v)``, code k, or
      k + 1 where ``v ≥ 1.5 · 2^k``. A code c weighs ``2^-c``; code 16 is a weight of zero.
    * ``"log8"``, 4 bits of integer and 4 of fraction: ``lg(sum) - lg(e)`` with
      ``lg(n) = round(16 log2 n)``. A code c weighs ``2^(-c/16)``; code 255 is a weight of zero.

    ``scores`` int32 (B, H, T, S); ``multiplier`` int32 (H,); ``shift`` 1 to 62; ``exp_table`` int32
    (256,), not negative, not increasing and positive first, such as ``round(2^22 exp(-d · scale))``;
    ``bias`` int32 (W, H, T, S) is added to element b as ``bias[b % W]``, and an entry of -2^31
    masks: its code is the one of zero, and a row that is masked as a whole has no other. → uint8
    (B, H, T, S). ``S · exp_table[0]`` below 2^31 is quickest (2^22 for S ≤ 511, 2^20 for S ≤ 2047);
    sums are right to 2^60. ``scores + bias`` wraps beyond int32.

    Reference: FQ-ViT, arXiv 2111.13824.
    """
    return _softmax_codes(scores, multiplier, shift, exp_table, bias, code)


def context(codes: Tensor, v: Tensor, code: str = "log8") -> Tensor:
    """``Σ_s v[s] · P(codes[s])`` with weights ``P(c) = round(2^15 · weight of code c)``.

    uint8 (B, H, T, S), int8 (B, H, S, D) → int32 (B, H, T, D). For ``"lis4"`` that
    is ``Σ v << (15 - c)``. Weights of a row of ``softmax_codes`` sum to at most 2^16, far from overflow.
    """
    return _context(codes, v, code)


def attention(
    qkv: Tensor,
    multiplier: Tensor,
    shift: int,
    exp_table: Tensor,
    bias: Tensor | None,
    out_multiplier: Tensor,
    out_shift: Tensor,
    code: str = "log8",
) -> Tensor:
    """``scores``, ``softmax_codes``, ``context`` and ``requantize`` in one pass, the same bits.

    ``qkv`` int8 (B, T, 3, H, D), ``out_multiplier`` int32 (H·D,), ``out_shift`` int8 (H·D,), the
    others as in ``softmax_codes`` → int8 (B, T, H·D).
    """
    return _attention(qkv, multiplier, shift, exp_table, bias, out_multiplier, out_shift, code)
