"""GPTQ: column by column, what one rounds away the columns to come make up for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_suite.calibration.rounding import RoundingProblem, RoundingRule, is_count, require
from qbench_suite.errors import ConversionError

#: How often the damping is raised tenfold where the moments cannot be factorised.
_ATTEMPTS = 6


@dataclass(frozen=True, kw_only=True)
class GPTQ(RoundingRule):
    """Frantar et al. 2022, arXiv:2210.17323: optimal brain surgery in a fixed order of columns.

    With ``U`` the upper Cholesky factor of ``(M + δI)⁻¹``, column j is rounded to nearest and the
    columns after it take off ``(w_j − w̃_j) / U_jj · U_j,j+1…``, which is what minimises the output
    error given the columns done. Scales, of whatever granularity, stay as they are. M is factorised in
    float64; a column that is never excited is rounded to nearest.

    The weight aimed at is W, as published, or a part of the way from W to the one that best maps x̂ to
    W x, see ``correction``. Raises ``ConversionError`` for parameters that are out of their range;
    ``round`` for moments that no damping makes positive definite.
    """

    #: δ as a share of the mean of the diagonal of M.
    damping: float = 0.01
    #: Whether columns are done in order of falling diagonal of M, so that the loudest err least.
    order_by_activity: bool = True
    #: How much of ``W Sᵀ (M + δI)⁻¹`` is taken off W before: 1 makes up for all that the layers before
    #: lost, as far as a linear map can (Arai and Ichikawa 2025, arXiv:2504.09629). Where x̂ is noisy that
    #: shrinks what every layer gives, and deep networks fade; 0 is the published method.
    correction: float = 0.0
    #: Columns between two updates of all that follow.
    block: int = 128

    def __post_init__(self) -> None:
        require(
            self,
            damping=(0 < self.damping < math.inf, "a finite number above 0"),
            correction=(0 <= self.correction <= 1, "a share, 0 … 1"),
            block=(is_count(self.block), "an integer above 0"),
        )

    @torch.no_grad()
    def round(self, problem: RoundingProblem) -> Tensor:
        moments, weight = problem.moments, problem.weight
        active = moments.diagonal(dim1=1, dim2=2)
        order = torch.arange(weight.shape[2], device=weight.device).expand_as(active)
        if self.order_by_activity:
            order = active.argsort(dim=1, descending=True, stable=True)
        columns = order[:, None, :].expand_as(weight)
        factor, target = self._prepared(problem, order)
        zero = problem.zero_point
        codes = self._sweep(
            target.gather(2, columns),
            problem.scale.gather(2, columns),
            None if zero is None else zero.gather(2, columns),
            factor,
            problem,
        )
        return torch.empty_like(codes).scatter_(2, columns, codes)

    def _prepared(self, problem: RoundingProblem, order: Tensor) -> tuple[Tensor, Tensor]:
        """U (g, in, in) in ``order``, float32, and the weights aimed at (g, out, in)."""
        power = problem.moments.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
        power = torch.where(power > 0, power, 1.0)
        # In units of the inputs' own power, as float32 does not hold U of moments beyond 1e76.
        moments = problem.moments / power
        damping = self.damping
        eye = torch.eye(moments.shape[1], dtype=moments.dtype, device=moments.device)
        for _ in range(_ATTEMPTS):
            damped = moments + damping * eye
            lower, info = torch.linalg.cholesky_ex(damped)
            if not bool(info.any()):
                break
            damping *= 10.0
        else:
            raise ConversionError(
                "Moments of what a layer reads are positive semidefinite; these have no Cholesky factor "
                f"at a damping of {damping:g} of their mean diagonal. Look at the calibration images."
            )
        target = problem.weight
        if problem.shift is not None and self.correction:
            pull = (problem.shift / power) @ problem.weight.double().mT  # S Wᵀ: (g, in, out)
            target = target - self.correction * torch.cholesky_solve(pull, lower).mT.float()
        rows = order[:, :, None].expand_as(moments)
        ordered = damped.gather(1, rows).gather(2, rows.mT)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(ordered))
        return torch.linalg.cholesky(inverse, upper=True).float(), target

    def _sweep(
        self,
        weight: Tensor,
        scale: Tensor,
        zero: Tensor | None,
        factor: Tensor,
        problem: RoundingProblem,
    ) -> Tensor:
        """Codes of columns in order; ``weight`` is used up."""
        width = weight.shape[2]
        codes = torch.empty_like(weight)
        for begin in range(0, width, self.block):
            end = min(begin + self.block, width)
            errors = torch.empty_like(weight[:, :, begin:end])
            for j in range(begin, end):
                exact = weight[:, :, j]
                code = torch.round(exact / scale[:, :, j])
                shift = 0.0 if zero is None else zero[:, :, j]
                code = (code + shift).clamp_(problem.low, problem.high)
                codes[:, :, j] = code
                error = (exact - (code - shift) * scale[:, :, j]) / factor[:, j, j, None]
                errors[:, :, j - begin] = error
                weight[:, :, j + 1 : end] -= error[:, :, None] * factor[:, j, None, j + 1 : end]
            weight[:, :, end:] -= errors @ factor[:, begin:end, end:]
            problem.progress(end, width)
        return codes
