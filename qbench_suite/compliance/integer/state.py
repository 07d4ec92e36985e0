"""The state audit: a state dict of integers."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from torch import nn

from qbench_suite.compliance.integer.audit import FloatUse, IntegerAudit, listed
from qbench_suite.compliance.integer.floats import float_of


def audit_state(module: nn.Module, declared: Iterable[str] = ()) -> IntegerAudit:
    """Look at each entry of ``module.state_dict()``: none is float but those ``declared``.

    ``declared``: glob patterns of names, for instance ``*.scale``, of floats that say what codes mean
    and that forward does not read; ``notes`` list the entries they allow. That forward reads none of
    them is for the other audits to show. What a state dict does not hold is not seen.
    """
    patterns = tuple(declared)
    findings, allowed = [], []
    state = module.state_dict()
    for name, value in state.items():
        why = float_of(value)
        if not why:
            continue
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            allowed.append(name)
        else:
            findings.append(FloatUse(name, f"is {why}"))
    notes = listed("float, as declared", allowed)
    return IntegerAudit("state", "tensors", len(state), tuple(findings), notes=notes)
