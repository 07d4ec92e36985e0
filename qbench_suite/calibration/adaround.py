"""AdaRound: up or down is learnt for each weight, by gradient descent on the output error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_suite.calibration.rounding import RoundingProblem, RoundingRule, is_count, require
from qbench_suite.errors import ConversionError

#: The sigmoid is stretched to GAMMA … ZETA and cut at 0 and 1, so that both ends are reached.
ZETA, GAMMA = 1.1, -0.1
#: Steps between two reports of progress.
_REPORT = 100
#: Share of lambda that the error of nearest rounding is worth for each weight when descent begins.
_WORTH = 0.1


@dataclass(frozen=True, kw_only=True)
class AdaRound(RoundingRule):
    """Nagel et al. 2020, arXiv:2004.10568, section 3.

    Minimises ``k · Σ ‖f(W x̃) − f(W̃ x̂)‖² + λ Σ (1 − |2h(V) − 1|^β)`` over V, where
    ``x̃ = x̂ + c (x − x̂)`` with c the ``correction``, ``W̃ = s · clip(⌊W/s⌋ + h(V))`` and
    ``h(V) = clip(1.2 · sigmoid(V) − 0.1, 0, 1)``; V begins where ``h(V)`` is the fraction of W/s. Adam;
    β falls from ``betas[0]`` to ``betas[1]`` in a line, and the second term counts after ``warm_up``. At
    the end a weight goes up where V ≥ 0.

    k makes the objective independent of the units of x: nearest rounding begins with an error of
    λ/10 a weight. Without an activation f each step takes the exact gradient over all of calibration,
    ``2 s · (D M + c W Sᵀ)``; with one, and where a map sums over more than ``4 · batch`` elements, that
    of ``batch`` rows drawn by seed from a sample of ``rows``.

    Raises ``ConversionError`` for parameters that are out of their range; ``round`` for an activation
    without a sample to see it on, and for samples whose outputs overflow float32.
    """

    steps: int = 2000
    learning_rate: float = 0.02
    #: λ.
    regularization: float = 0.01
    #: β at the first step after warm-up, and at the last.
    betas: tuple[float, float] = (20.0, 2.0)
    #: Share of the steps without the second term.
    warm_up: float = 0.2
    #: Rows of a step, where it does not take all.
    batch: int = 256
    #: Rows of the sample that they are drawn from.
    rows: int = 4096
    #: How far the target goes from ``W x̂`` (0), what the layer gives on the inputs it has, to ``W x``
    #: (1, the published asymmetric one), what the float layer gives on float inputs.
    correction: float = 0.0

    def __post_init__(self) -> None:
        count, positive = "an integer above 0", "a finite number above 0"
        require(
            self,
            steps=(is_count(self.steps), count),
            batch=(is_count(self.batch), count),
            rows=(is_count(self.rows), count),
            learning_rate=(0 < self.learning_rate < math.inf, positive),
            regularization=(0 < self.regularization < math.inf, positive),
            warm_up=(0 <= self.warm_up <= 1, "a share of the steps, 0 … 1"),
            correction=(0 <= self.correction <= 1, "a share, 0 … 1"),
            betas=(
                len(self.betas) == 2 and all(1 <= beta < math.inf for beta in self.betas),
                "two finite numbers of at least 1",
            ),
        )

    def sample_rows(self, width: int) -> int:
        return self.rows if width > 4 * self.batch else 0

    @torch.no_grad()
    def round(self, problem: RoundingProblem) -> Tensor:
        descent = Descent(self, problem)
        for step in range(self.steps):
            descent.step(step)
            if (step + 1) % _REPORT == 0:
                problem.progress(step + 1, self.steps)
        return descent.codes()

    def beta(self, step: int) -> float | None:
        """β at ``step``; None in the warm-up."""
        begin = self.warm_up * self.steps
        if step < begin:
            return None
        first, last = self.betas
        return first + (last - first) * (step - begin) / max(self.steps - begin, 1.0)


class Descent:
    """One descent: V, the state of Adam, and the gradient."""

    def __init__(self, rule: AdaRound, problem: RoundingProblem) -> None:
        if problem.activation is not None and problem.inputs is None:
            raise ConversionError(
                "An activation is learnt through on a sample of what the layer reads; the problem has an "
                "activation and no inputs. Give inputs (g, rows, in), or no activation."
            )
        self._rule, self._problem = rule, problem
        ratio = problem.ratio()
        self._floor = torch.floor(ratio)
        stretched = (ratio - self._floor - GAMMA) / (ZETA - GAMMA)
        #: V: (g, out, in) float32.
        self.v = torch.logit(stretched)
        self._mean, self._square = torch.zeros_like(self.v), torch.zeros_like(self.v)
        self._sampled = problem.inputs is not None and (
            problem.activation is not None or rule.sample_rows(problem.weight.shape[2]) > 0
        )
        self._generator = torch.Generator().manual_seed(problem.seed)
        total = float(problem.moments.diagonal(dim1=1, dim2=2).sum())
        # In units of the inputs' own power, so that float32 holds them whatever their size.
        self._moments = (problem.moments / (total or 1.0)).float()
        self._pull: Tensor | float = 0.0
        if problem.shift is not None and rule.correction:
            pull = problem.weight.double() @ problem.shift.mT * rule.correction
            self._pull = (pull / (total or 1.0)).float()
        #: Power of two near the size of the sampled outputs: their squares fit float32 by it.
        self._unit = 1.0
        error = self._error_of_nearest()
        if not math.isfinite(error):
            raise ConversionError(
                "AdaRound learns from outputs that float32 holds; those of the sampled inputs overflow, "
                f"which reach {float(problem.weight.abs().max()):g} in the weight. Use gptq or nearest."
            )
        #: k, of a sum over all rows with the moments in those units, or of a mean over sampled ones.
        self.k = _WORTH * rule.regularization * self.v.numel() / error if error > 0 else 0.0

    def _error_of_nearest(self) -> float:
        """What nearest rounding errs by on the inputs x̂, behind the activation."""
        problem = self._problem
        nearest = problem.values(problem.nearest())
        if not self._sampled or problem.inputs is None:
            delta = nearest - problem.weight
            return float(((delta @ self._moments) * delta).sum())
        exact, rounded = (self._output(problem.inputs, w) for w in (problem.weight, nearest))
        size = float(exact.double().square().mean().sqrt())
        if size and math.isfinite(size):
            self._unit = math.ldexp(1.0, math.frexp(size)[1])
        gap = (exact - rounded).div_(self._unit)
        return float(gap.square().sum()) / problem.inputs.shape[1]

    def _output(self, x: Tensor, weight: Tensor) -> Tensor:
        """f(W x + b): (g, rows, out)."""
        problem = self._problem
        y = x @ weight.mT
        if problem.bias is not None:
            y = y + problem.bias[:, None, :]
        return y if problem.activation is None else problem.activation(y)

    def codes(self) -> Tensor:
        """The codes that V stands for now."""
        found = self._floor + (self.v >= 0)
        return found.clamp_(self._problem.low, self._problem.high)

    def step(self, step: int) -> None:
        """One step of Adam."""
        gradient = self.gradient(self._rule.beta(step))
        self._mean.lerp_(gradient, 0.1)
        self._square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        scale = (self._square / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8)
        rate = self._rule.learning_rate / (1 - 0.9 ** (step + 1))
        self.v.addcdiv_(self._mean, scale, value=-rate)

    def gradient(self, beta: float | None) -> Tensor:
        """Of the objective by V; ``beta`` None leaves its second term out."""
        problem = self._problem
        sigmoid = torch.sigmoid(self.v)
        stretched = sigmoid * (ZETA - GAMMA) + GAMMA
        h = stretched.clamp(0.0, 1.0)
        codes = self._floor + h
        inside = (codes >= problem.low) & (codes <= problem.high)
        values = problem.values(codes.clamp_(problem.low, problem.high))
        by_weight = self._of_rows(values) if self._sampled else self._of_all(values)
        by_h = by_weight.mul_(problem.scale).mul_(inside)
        if beta is not None:
            centred = h.mul_(2.0).sub_(1.0)
            slope = centred.abs().pow_(beta - 1.0).mul_(centred.sign())
            by_h.sub_(slope, alpha=2.0 * beta * self._rule.regularization)
        by_h.mul_(sigmoid).mul_(sigmoid.neg_().add_(1.0)).mul_(ZETA - GAMMA)
        return by_h.mul_((stretched > 0.0) & (stretched < 1.0))

    def _of_all(self, values: Tensor) -> Tensor:
        """∂/∂W̃ of the error over all of calibration: 2k (D M + c W Sᵀ)."""
        delta = values.sub_(self._problem.weight)
        return (delta @ self._moments).add_(self._pull).mul_(2.0 * self.k)

    def _of_rows(self, values: Tensor) -> Tensor:
        """∂/∂W̃ of the mean error over rows drawn anew, through the activation."""
        problem = self._problem
        assert problem.inputs is not None
        count = problem.inputs.shape[1]
        drawn = torch.randint(count, (min(self._rule.batch, count),), generator=self._generator)
        drawn = drawn.to(values.device)
        x_hat = problem.inputs[:, drawn]
        x = x_hat
        if problem.float_inputs is not None and self._rule.correction:
            x = torch.lerp(x_hat, problem.float_inputs[:, drawn], self._rule.correction)
        wanted = self._output(x, problem.weight)
        with torch.enable_grad():
            values = values.requires_grad_()
            gap = (self._output(x_hat, values) - wanted) / self._unit
            (by_weight,) = torch.autograd.grad(gap.square().sum(), values)
        return by_weight.mul_(self.k / len(drawn))
