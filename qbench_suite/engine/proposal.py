"""Proposal: a mixed-precision policy within a budget of weight bits, and its YAML file."""

from __future__ import annotations

import glob
import math
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import yaml

from qbench_suite.convert.policy import ACTIVATIONS, Policy
from qbench_suite.engine.mixing import Option, choose
from qbench_suite.engine.sensitivity import Choice, Sensitivity
from qbench_suite.errors import ResultsError, SelectionError
from qbench_suite.layers import Role
from qbench_suite.scaling import Quantizer

#: What the other layers are while a candidate is tried at one.
Keep = Literal["float", "policy"]


def trials(
    measured: Sensitivity, candidates: Sequence[str], rest: Choice
) -> dict[str, dict[str, Choice]]:
    """The choice to measure for each layer and candidate: that candidate there, ``rest`` elsewhere."""
    return {
        site.name: {name: measured.with_site(site.name, name, rest) for name in candidates}
        for site in measured.sites
    }


def require_budget(measured: Sensitivity, candidates: Sequence[str], bits: float) -> None:
    """Raise ``SelectionError`` where the cheapest candidates take more than ``bits`` bits a weight.

    So does a model without weights to quantize. Nothing is measured.
    """
    total = sum(measured.elements.values())
    cheapest = sum(
        min(measured.option_bits(site, name) for name in candidates) for site in measured.elements
    )
    if not total or cheapest / total > bits * (1 + 1e-12):
        least = "no weights to quantize" if not total else f"{cheapest / total:.3f} bits a weight"
        raise SelectionError(
            f"A budget is no less than the cheapest candidates take; got --bits {bits:g}, they take "
            f"{least}, scales included. Raise --bits, or add a cheaper one to --candidates."
        )


def propose(
    measured: Sensitivity, candidates: Sequence[str], rest: Choice, bits: float
) -> dict[str, str]:
    """The candidate for each layer of least KL in sum, at most ``bits`` bits a weight on average.

    KL of single layers is taken to add up, as it does for small errors; measure what comes out. A
    layer that its candidate leaves float is not in it. Raises ``SelectionError`` as ``require_budget``
    does, and for a model without weights to quantize.
    """
    require_budget(measured, candidates, bits)
    total = sum(measured.elements.values())
    options = {
        site: {
            name: Option(measured.option_bits(site, name), _cost(measured.effect(choice).kl))
            for name, choice in by_name.items()
        }
        for site, by_name in trials(measured, candidates, rest).items()
    }
    chosen = choose(options, bits * total)
    return {s: name for s, name in chosen.items() if s in measured.candidates[name].sites}


def _cost(kl: float | None) -> float:
    """A KL that is not defined is the worst there is."""
    return 1e30 if kl is None or not math.isfinite(kl) else kl


def policy_text(measured: Sensitivity, choice: Choice, name: str, notes: Sequence[str]) -> str:
    """YAML of the policy that gives each layer, by its exact name, what ``choice`` says.

    ``notes``: lines of the comment at its head.
    """
    used: list[Policy] = [measured.candidates[c].policy for c in dict.fromkeys(choice.values())]
    data: dict[str, Any] = {"name": name, "description": notes[0] if notes else ""}
    data["format"] = "none"
    static = [policy for policy in used if policy.static]
    given = {
        role
        for site, candidate in choice.items()
        for role in measured.candidates[candidate].assignments[site].quantizers
    }
    if static and not given.isdisjoint(ACTIVATIONS):
        data |= {"scales": "static", "calibration": static[0].calibration.model_dump()}
    if measured.folds:
        data["fold_batch_norm"] = True
    data["layers"] = {
        glob.escape(site.name): _entry(
            measured.candidates[choice[site.name]].assignments[site.name].quantizers
        )
        for site in measured.sites
        if site.name in choice
    }
    body = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=1000)
    return "".join(f"# {note}\n" for note in notes) + body


def _entry(quantizers: Mapping[Role, Quantizer]) -> dict[str, str]:
    """The keys of one layer."""
    entry = {}
    for role, quantizer in quantizers.items():
        entry[f"{role}_format"] = quantizer.format.name
        entry[f"{role}_mode"] = quantizer.mode.name
        if quantizer.range_rule is not None:
            entry[f"{role}_range"] = quantizer.range_rule.name
    return entry


def require_output(
    path: Path, names: Collection[str], inputs: Iterable[Path], *, make: bool = True
) -> None:
    """Raise for a file that a proposal cannot be written to, before anything is measured.

    ``names``: of the policies it is compared with, none of which it may have: ``SelectionError``;
    ``inputs``: files that are read, none of which it may be: ``SelectionError``. Its folder, made
    where ``make`` says so, can be written: ``ResultsError``.
    """
    if policy_name(path) in names:
        raise SelectionError(
            f"A proposal has a name of its own, that of its file; {path} is called as the policy "
            f"{policy_name(path)!r} that it is compared with. Choose another --out."
        )
    if not make:
        return
    if any(_same(path, file) for file in inputs):
        raise SelectionError(
            f"A proposal goes to a file that is not read; {path} is one of the policies or plugins "
            "given. Choose another --out."
        )
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise _unwritable(path, error) from error


def _same(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:
        return a.resolve() == b.resolve()


def write_policy(path: Path, text: str) -> None:
    """Write a policy file, whole or not at all; raises ``ResultsError`` where that fails."""
    path = path.resolve()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ResultsError:
    return ResultsError(
        f"A policy is written to a file; {path}: {error.strerror or error}. Choose another --out."
    )


def policy_name(path: Path) -> str:
    """The name of the policy in ``path``: of the characters that case ids keep."""
    return re.sub(r"[^A-Za-z0-9_.+]", "_", path.stem) or "mixed"
