"""Hidden: how much of its largest activations an MLP may clip, by what that costs after fc2."""

from __future__ import annotations

import torch
from torch import Tensor

from qbench_fqvit.activation import Table, activation_table
from qbench_fqvit.float_block import FloatBlock
from qbench_fqvit.scheme import Scheme
from qbench_suite import Range

#: Shares of the range that are tried; of equal errors the wider range wins.
_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
#: One token of so many is looked at, as each share costs a product with the weights of fc2; of small
#: batches at least this many.
_STRIDE, _LEAST_TOKENS = 13, 256


class HiddenChoice:
    """Tables of the activation over shrinking ranges, and the error of fc2's output under each.

    The mean error of each hidden channel is known as well, so that the bias of fc2 can make up for it.
    """

    def __init__(self, block: FloatBlock, read: Range, written: Range, scheme: Scheme) -> None:
        self._weight = block.fc2.weight
        shares = _SHARES if scheme.folding and scheme.observer is None else _SHARES[:1]
        self.tables = [
            activation_table(block.act, _shrunk(read, share), _shrunk(written, share), scheme)
            for share in shares
        ]
        hidden, outputs = self._weight.shape[1], self._weight.shape[0]
        self._errors = torch.zeros(len(shares), dtype=torch.float64)
        self._sums = torch.zeros(len(shares), hidden, dtype=torch.float64)
        self._after = torch.zeros(len(shares), outputs, dtype=torch.float64)
        self._tokens = 0

    def observe(self, stages: dict[str, Tensor]) -> None:
        """See the activation's input and output, (…, hidden), of one batch."""
        read, written = (stages[name].flatten(0, -2) for name in ("fc1", "act"))
        stride = max(1, min(_STRIDE, read.shape[0] // _LEAST_TOKENS))
        read, written = read[::stride], written[::stride]
        for i, table in enumerate(self.tables):
            missing = written - table(read)
            after = missing @ self._weight.T
            self._errors[i] += after.square().sum(dtype=torch.float64)
            self._sums[i] += missing.sum(0, dtype=torch.float64)
            self._after[i] += after.sum(0, dtype=torch.float64)
        self._tokens += read.shape[0]

    def best(self) -> tuple[Table, Tensor]:
        """The table of least error, and what it misses of each channel on average, (hidden,)."""
        # The mean error is made up for, so that the variance is what counts.
        variance = self._errors - self._after.square().sum(1) / self._tokens
        best = int(variance.argmin())
        return self.tables[best], (self._sums[best] / self._tokens).float()


def _shrunk(range: Range, share: float) -> Range:
    """``range`` with the end farther from 0 drawn in; the nearer end as far as it reaches."""
    bound = share * torch.maximum(-range.low, range.high)
    return Range(torch.maximum(range.low, -bound), torch.minimum(range.high, bound))
