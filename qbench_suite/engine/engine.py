"""Engine: one object that holds the caches of a process and runs cases on them."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

from qbench_suite.compliance import read_rules
from qbench_suite.convert.policy import Policy, policy_named
from qbench_suite.convert.resolve import check_policy
from qbench_suite.engine.arithmetic_grid import (
    IntegerCase,
    LinearCase,
    integer_cases,
    linear_cases,
)
from qbench_suite.engine.format_case import run_format_case
from qbench_suite.engine.grid import (
    FormatCase,
    LayerCase,
    ModelCase,
    QuantizerCase,
    Selection,
    format_cases,
    layer_cases,
    model_cases,
    quantizer_cases,
)
from qbench_suite.engine.halving import is_out_of_memory, out_of_memory
from qbench_suite.engine.inputs import RANDOM, reference_images
from qbench_suite.engine.integer_case import run_integer_case
from qbench_suite.engine.layer_case import run_layer_case
from qbench_suite.engine.linear_case import LinearLayers, run_linear_case
from qbench_suite.engine.model_case import run_model_case
from qbench_suite.engine.norm_case import run_norm_case
from qbench_suite.engine.norm_grid import NormCase, norm_cases
from qbench_suite.engine.norm_problem import NormProblems
from qbench_suite.engine.pool import LoadedModel, ModelPool
from qbench_suite.engine.quantizer_case import run_quantizer_case
from qbench_suite.engine.references import ReferenceStore
from qbench_suite.engine.rows import Case, new_row
from qbench_suite.engine.settings import Settings
from qbench_suite.engine.subject import Subjects
from qbench_suite.errors import (
    ConversionError,
    FormatError,
    ModeError,
    ModelError,
    NameNotFoundError,
    QBenchError,
)
from qbench_suite.layers import QuantModule, Role
from qbench_suite.manager import Manager
from qbench_suite.results import (
    FormatRow,
    Gates,
    IntegerRow,
    LayerRow,
    LinearRow,
    ModelRow,
    NormRow,
    QuantizerRow,
    Row,
)
from qbench_suite.scaling import Quantizer, compiling
from qbench_suite.timing import Timer

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
        self.subjects = Subjects(self)
        self.linears = LinearLayers(self.device, self.settings.seed)
        self.norms = NormProblems(self.device, self.settings.seed)
        #: Told a model case's id, how many images are done, and how many there are.
        self.progress: Callable[[str, int, int], None] = lambda *_: None

    def layer_cases(self, selection: Selection) -> list[LayerCase]:
        """The layer cases of the grid; raises for settings of theirs that name nothing registered."""
        self._check_dataset()
        for spec in set(self.settings.roles.values()) - {"case"}:
            self._quantizer_of(spec)
        return layer_cases(selection, self.manager, self.pool)

    def format_cases(self, selection: Selection) -> list[FormatCase]:
        """The format cases of the grid."""
        return format_cases(selection, self.manager)

    def quantizer_cases(self, selection: Selection) -> list[QuantizerCase]:
        """The quantizer cases of the grid."""
        return quantizer_cases(selection, self.manager)

    def model_cases(self, selection: Selection) -> list[ModelCase]:
        """The model cases of the grid; raises for policies and rules that suit no model."""
        self._check_dataset()
        read_rules(self.settings.compliance)
        return model_cases(selection, self.manager, lambda name: self.policy(name).formats)

    def linear_cases(self, selection: Selection) -> list[LinearCase]:
        """The linear cases of the grid."""
        return linear_cases(selection, self.manager)

    def integer_cases(self, selection: Selection) -> list[IntegerCase]:
        """The integer cases of the grid; raises for rules that cannot be read."""
        self._check_dataset()
        read_rules(self.settings.compliance)
        return integer_cases(selection, self.manager)

    def norm_cases(self, selection: Selection) -> list[NormCase]:
        """The norm cases of the grid."""
        return norm_cases(selection, self.manager, self.device)

    def unavailable(self, case: Case) -> str:
        """Why ``case`` is none for this machine or this model; empty where it can be measured.

        What goes wrong in finding out is left for ``run`` to tell.
        """
        try:
            match case:
                case LinearCase():
                    return self.manager.linears.get(case.entry).unavailable(self.device)
                case NormCase():
                    kernel = self.manager.norm_kernels.get(case.kernel)
                    misfit = kernel.misfit(case.lengths, case.dtype)
                    return kernel.unavailable(self.device) or misfit
                case ModelCase():
                    named = map(self.manager.linears.get, self.policy(case.policy).kernels)
                    return next(filter(None, (e.unavailable(self.device) for e in named)), "")
                case IntegerCase():
                    method = self.manager.integer_methods.get(case.method)
                    return method.misfit(self.pool.get(case.model).module)
        except Exception:
            _LOG.debug("%s: whether it can be measured is unknown", case.id, exc_info=True)
        return ""

    @functools.cache
    def policy(self, name: str) -> Policy:
        """The policy called ``name``, or in that file; raises ``PolicyError`` for one that is wrong."""
        policy = policy_named(name, self.manager)
        check_policy(policy, self.manager)
        return policy

    def run(self, case: Case, timer: Timer) -> Row:
        """Measure ``case``; the row says ``passed`` or ``failed`` (compliance or a gate).

        What cannot be measured gives a row with outcome ``error`` and the reason, never an exception
        that a plugin's mistake could turn into the loss of other rows.
        """
        start = time.perf_counter()
        row = new_row(case, self.manager, self.settings)
        try:
            self._measure(case, row, timer)
        except Exception as error:
            row.outcome, row.reason = "error", self._reason(case, row, error)
        row.compiled = not compiling.failures()
        row.seconds = time.perf_counter() - start
        return row

    def _reason(self, case: Case, row: Row, error: Exception) -> str:
        """Why ``case`` could not be measured."""
        if is_out_of_memory(error):
            return str(out_of_memory(case.id, error))
        if isinstance(error, FormatError):
            return f"{error} {self._owners_of_formats(case)}."
        if isinstance(error, QBenchError):
            cause, blamed = error.__cause__, isinstance(error, ConversionError | ModelError)
            blames = blamed and cause is not None and not isinstance(cause, QBenchError)
            return f"{error} What took part: {self.parties(case, row)}." if blames else str(error)
        _LOG.debug("%s raised", case.id, exc_info=error)
        return (
            f"A case runs to its end; {case.id} raised {type(error).__name__}: {error}. Mend the "
            f"plugin at fault, or exclude the case: {self.parties(case, row)}."
        )

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
        manager, named = self.manager, [self._owners_of_formats(case)]
        if isinstance(case, LayerCase | QuantizerCase):
            named.append(f"{case.mode} is of {manager.modes.owner(case.mode)}")
        if isinstance(row, LayerRow) and row.quant_type:
            named.append(f"{row.quant_type} is of {manager.layers.owner(row.quant_type)}")
        if isinstance(case, ModelCase):
            named.append(f"{case.policy} is of {manager.policies.owner(case.policy)}")
        if isinstance(case, LinearCase):
            named.append(f"{case.entry} is of {manager.linears.owner(case.entry)}")
        if isinstance(case, NormCase):
            named.append(f"{case.kernel} is of {manager.norm_kernels.owner(case.kernel)}")
        if isinstance(case, IntegerCase):
            named.append(f"{case.method} is of {manager.integer_methods.owner(case.method)}")
        if isinstance(case, ModelCase | IntegerCase):
            named.append(f"{case.model} is of {manager.models.owner(case.model)}")
        return ", ".join(named)

    def _owners_of_formats(self, case: Case) -> str:
        names = case.formats if isinstance(case, ModelCase) else (case.format,)
        return ", ".join(f"{name} is of {self.manager.formats.owner(name)}" for name in names)

    def _measure(self, case: Case, row: Row, timer: Timer) -> None:
        match case, row:
            case LayerCase(), LayerRow():
                run_layer_case(self, case, row, timer)
            case FormatCase(), FormatRow():
                run_format_case(self, case, row, timer)
            case QuantizerCase(), QuantizerRow():
                run_quantizer_case(self, case, row, timer)
            case ModelCase(), ModelRow():
                run_model_case(self, case, row, timer)
            case LinearCase(), LinearRow():
                run_linear_case(self, case, row, timer)
            case IntegerCase(), IntegerRow():
                run_integer_case(self, case, row, timer)
            case NormCase(), NormRow():
                run_norm_case(self, case, row, timer)

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

    def _check_dataset(self) -> None:
        if self.settings.dataset not in (None, RANDOM):
            self.manager.datasets.get(self.settings.dataset)

    def _images(self, model: LoadedModel) -> Tensor:
        dataset, settings = self.dataset_of(model), self.settings
        images = reference_images(self.manager, model.entry, dataset, settings.batch, settings.seed)
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
