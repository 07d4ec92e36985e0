"""Engine: one object that holds the caches of a process and runs cases on them."""

from __future__ import annotations

import functools
import logging
import time
from typing import Any

import torch
from torch import Tensor

from qbench_suite.engine.format_case import run_format_case
from qbench_suite.engine.grid import (
    FormatCase,
    LayerCase,
    QuantizerCase,
    Selection,
    format_cases,
    layer_cases,
    quantizer_cases,
)
from qbench_suite.engine.inputs import reference_images
from qbench_suite.engine.layer_case import run_layer_case
from qbench_suite.engine.pool import LoadedModel, ModelPool
from qbench_suite.engine.quantizer_case import run_quantizer_case
from qbench_suite.engine.references import ReferenceStore
from qbench_suite.engine.settings import Settings
from qbench_suite.errors import FormatError, ModeError, NameNotFoundError, QBenchError
from qbench_suite.layers import QuantModule, Role
from qbench_suite.manager import Manager
from qbench_suite.results import FormatRow, Gates, LayerRow, QuantizerRow, Row
from qbench_suite.scaling import Quantizer, compiling
from qbench_suite.timing import Timer

Case = LayerCase | FormatCase | QuantizerCase
_LOG = logging.getLogger("qbench_suite")


class Engine:
    """Runs cases; models, references and kernels stay warm between them."""

    def __init__(
        self, manager: Manager, settings: Settings | None = None, gates: Gates | None = None
    ) -> None:
        self.manager = manager
        self.settings = settings or Settings()
        self.gates = gates or Gates.read()
        self.device = _device(self.settings.device)
        half = self.settings.cache_bytes // 2
        self.pool = ModelPool(manager, half, self.device)
        self.references = ReferenceStore(half, self._images)

    def layer_cases(self, selection: Selection) -> list[LayerCase]:
        """The layer cases of the grid; raises for settings of theirs that name nothing registered."""
        if self.settings.dataset not in (None, "random"):
            self.manager.datasets.get(self.settings.dataset)
        for spec in set(self.settings.roles.values()) - {"case"}:
            self._quantizer_of(spec)
        return layer_cases(selection, self.manager, self.pool)

    def format_cases(self, selection: Selection) -> list[FormatCase]:
        """The format cases of the grid."""
        return format_cases(selection, self.manager)

    def quantizer_cases(self, selection: Selection) -> list[QuantizerCase]:
        """The quantizer cases of the grid."""
        return quantizer_cases(selection, self.manager)

    def run(self, case: Case, timer: Timer) -> Row:
        """Measure ``case``; the row says ``passed`` or ``failed`` (compliance or a gate).

        What cannot be measured gives a row with outcome ``error`` and the reason, never an exception
        that a plugin's mistake could turn into the loss of other rows.
        """
        start = time.perf_counter()
        row = self._new_row(case)
        try:
            self._measure(case, row, timer)
        except FormatError as error:
            row.outcome = "error"
            row.reason = f"{error} {case.format} is of {self.manager.formats.owner(case.format)}."
        except QBenchError as error:
            row.outcome, row.reason = "error", str(error)
        except Exception as error:
            _LOG.debug("%s raised", case.id, exc_info=error)
            row.outcome = "error"
            row.reason = (
                f"A case runs to its end; {case.id} raised {type(error).__name__}: {error}. Mend the "
                f"plugin at fault, or exclude the case: {self.parties(case, row)}."
            )
        row.compiled = not compiling.failures()
        row.seconds = time.perf_counter() - start
        return row

    def quantizers(self, case: LayerCase, layer: type[QuantModule]) -> dict[Role, Quantizer]:
        """The case's quantizer for each role of ``layer``, unless the settings name another."""
        own = self.quantizer(case.format, case.mode)
        chosen = dict.fromkeys(layer.roles, own)
        for role, spec in self.settings.roles.items():
            quantizer = own if spec == "case" else self._quantizer_of(spec)
            if quantizer is None:
                chosen.pop(Role(role), None)
            else:
                chosen[Role(role)] = quantizer
        return chosen

    @functools.cache
    def quantizer(self, format: str, mode: str) -> Quantizer:
        """The quantizer of a format in a mode."""
        return Quantizer(
            self.manager.formats.get(format), self.manager.modes.get(mode), self.settings.seed
        )

    def parties(self, case: Case, row: Row) -> str:
        """What took part in a case, each with its owner."""
        owners = {case.format: self.manager.formats.owner(case.format)}
        if not isinstance(case, FormatCase):
            owners[case.mode] = self.manager.modes.owner(case.mode)
        if isinstance(row, LayerRow) and row.quant_type:
            owners[row.quant_type] = self.manager.layers.owner(row.quant_type)
        return ", ".join(f"{name} is of {owner}" for name, owner in owners.items())

    def _new_row(self, case: Case) -> Row:
        owner = str(self.manager.formats.owner(case.format))
        common: dict[str, Any] = {
            "case": case.id,
            "format": case.format,
            "format_owner": owner,
            "device": self.settings.device,
            "seed": self.settings.seed,
        }
        match case:
            case LayerCase():
                return LayerRow(**common, model=case.model, mode=case.mode, layer=case.layer)
            case FormatCase():
                return FormatRow(**common, distribution=case.distribution)
            case QuantizerCase():
                return QuantizerRow(**common, mode=case.mode)

    def _measure(self, case: Case, row: Row, timer: Timer) -> None:
        match case, row:
            case LayerCase(), LayerRow():
                run_layer_case(self, case, row, timer)
            case FormatCase(), FormatRow():
                run_format_case(self, case, row, timer)
            case QuantizerCase(), QuantizerRow():
                run_quantizer_case(self, case, row, timer)

    def _quantizer_of(self, spec: str) -> Quantizer | None:
        if spec == "none":
            return None
        format, dash, mode = spec.partition("-")
        if not dash:
            raise ModeError(
                f"A role takes a format and a mode joined by '-', or case, or none; got {spec!r}. "
                "Write for instance weight=int4-chunk64."
            )
        return self.quantizer(format, mode)

    def dataset_of(self, model: LoadedModel) -> str:
        """The dataset that the model's reference input comes from."""
        return self.settings.dataset or model.entry.dataset

    def _images(self, model: LoadedModel) -> Tensor:
        images = reference_images(
            self.manager,
            model.entry,
            self.dataset_of(model),
            self.settings.batch,
            self.settings.seed,
        )
        return images.to(self.device)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise NameNotFoundError(
            f"--qbench-device names a device that torch can use; {name!r}: "
            f"{str(error).splitlines()[0]}. Use cpu."
        ) from None
    return device
