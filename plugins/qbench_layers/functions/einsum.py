"""Which axes an einsum equation of two operands sums over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """The axes of the two operands of a product of matrices, batched or not."""

    #: Axis that is summed over, of the left and of the right operand.
    summed: tuple[int, int]
    #: Last axis that only the left, or only the right, operand has; None where it has none.
    free: tuple[int | None, int | None]


def parse(equation: str, left_rank: int, right_rank: int) -> Product | str:
    """The product that ``equation`` stands for; a reason where it is not one with one summed axis.

    ``"bqd,bkd->bqk"`` sums axis 2 of both operands. Equations may have spaces and an ellipsis, and
    leave out the result, which then has the labels that occur once.
    """
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != 2:
        return f"its equation {equation!r} has {len(terms)} operands, not 2"
    left, right = _labels(terms[0], left_rank), _labels(terms[1], right_rank)
    for labels in (left, right):
        if len(set(labels)) < len(labels):
            return f"its equation {equation!r} takes a diagonal"
    shared = set(left) & set(right)
    # An ellipsis is never summed over, whether the result names it or, implicitly, leaves it in.
    kept = set(output) if arrow else (set(left) ^ set(right))
    summed = [label for label in left if label in shared and label.isalpha() and label not in kept]
    if len(summed) != 1:
        return f"its equation {equation!r} sums over {len(summed)} axes of both operands, not 1"
    return Product(
        summed=(left.index(summed[0]), right.index(summed[0])),
        free=(_last_of_its_own(left, shared), _last_of_its_own(right, shared)),
    )


def _labels(term: str, rank: int) -> list[str]:
    """The labels of a term, one an axis; those of an ellipsis are numbers, counted from its end."""
    before, _, after = term.partition("...")
    hidden = rank - len(before) - len(after)
    return [*before, *(str(number) for number in range(hidden, 0, -1)), *after]


def _last_of_its_own(labels: list[str], shared: set[str]) -> int | None:
    own = [axis for axis, label in enumerate(labels) if label not in shared]
    return own[-1] if own else None
