"""qbench_suite: pytest for low-precision models. These names are public; all others may change."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qbench_suite.datasets import DatasetEntry as DatasetEntry
    from qbench_suite.errors import (
        BrokenImageError as BrokenImageError,
    )
    from qbench_suite.errors import (
        DatasetError as DatasetError,
    )
    from qbench_suite.errors import (
        DuplicateNameError as DuplicateNameError,
    )
    from qbench_suite.errors import (
        FormatError as FormatError,
    )
    from qbench_suite.errors import (
        LayerError as LayerError,
    )
    from qbench_suite.errors import (
        ModeError as ModeError,
    )
    from qbench_suite.errors import (
        ModelError as ModelError,
    )
    from qbench_suite.errors import (
        NameNotFoundError as NameNotFoundError,
    )
    from qbench_suite.errors import (
        PluginError as PluginError,
    )
    from qbench_suite.errors import (
        PolicyError as PolicyError,
    )
    from qbench_suite.errors import (
        QBenchError as QBenchError,
    )
    from qbench_suite.errors import (
        ResultsError as ResultsError,
    )
    from qbench_suite.errors import (
        SelectionError as SelectionError,
    )
    from qbench_suite.errors import (
        UnknownHookError as UnknownHookError,
    )
    from qbench_suite.formats import (
        CodebookFormat as CodebookFormat,
    )
    from qbench_suite.formats import (
        FloatFormat as FloatFormat,
    )
    from qbench_suite.formats import (
        Format as Format,
    )
    from qbench_suite.formats import (
        IdentityFormat as IdentityFormat,
    )
    from qbench_suite.formats import (
        IntFormat as IntFormat,
    )
    from qbench_suite.formats import (
        Overflow as Overflow,
    )
    from qbench_suite.formats import (
        Rounding as Rounding,
    )
    from qbench_suite.formats import (
        RoundKernel as RoundKernel,
    )
    from qbench_suite.formats import (
        Specials as Specials,
    )
    from qbench_suite.hookspecs import hookimpl as hookimpl
    from qbench_suite.layers import (
        QuantFunction as QuantFunction,
    )
    from qbench_suite.layers import (
        Quantized as Quantized,
    )
    from qbench_suite.layers import (
        Quantizing as Quantizing,
    )
    from qbench_suite.layers import (
        QuantModule as QuantModule,
    )
    from qbench_suite.layers import (
        Role as Role,
    )
    from qbench_suite.layers import (
        RoleQuantizers as RoleQuantizers,
    )
    from qbench_suite.manager import Manager as Manager
    from qbench_suite.manager import default_manager as default_manager
    from qbench_suite.models import ModelEntry as ModelEntry
    from qbench_suite.policies import PolicyEntry as PolicyEntry
    from qbench_suite.registry import Family as Family
    from qbench_suite.results import load as load
    from qbench_suite.scaling import (
        AbsMax as AbsMax,
    )
    from qbench_suite.scaling import (
        Axes as Axes,
    )
    from qbench_suite.scaling import (
        FakeQuantized as FakeQuantized,
    )
    from qbench_suite.scaling import (
        Granularity as Granularity,
    )
    from qbench_suite.scaling import (
        Mode as Mode,
    )
    from qbench_suite.scaling import (
        Observer as Observer,
    )
    from qbench_suite.scaling import (
        PerBlock as PerBlock,
    )
    from qbench_suite.scaling import (
        PerChannel as PerChannel,
    )
    from qbench_suite.scaling import (
        PerChunk as PerChunk,
    )
    from qbench_suite.scaling import (
        PerTensor as PerTensor,
    )
    from qbench_suite.scaling import (
        PerToken as PerToken,
    )
    from qbench_suite.scaling import (
        PowerOfTwo as PowerOfTwo,
    )
    from qbench_suite.scaling import (
        QuantizedTensor as QuantizedTensor,
    )
    from qbench_suite.scaling import (
        Quantizer as Quantizer,
    )
    from qbench_suite.scaling import (
        Range as Range,
    )
    from qbench_suite.scaling import (
        RangeRule as RangeRule,
    )
    from qbench_suite.scaling import (
        ScaleRule as ScaleRule,
    )
    from qbench_suite.scaling import (
        TwoLevel as TwoLevel,
    )

__version__ = "0.1.0"

#: Public name → the module it lives in; imported when first used, so that ``qbench --help`` and
#: plugins that are only listed need not import torch.
_HOME = {
    "AbsMax": "scaling",
    "Axes": "scaling",
    "BrokenImageError": "errors",
    "CodebookFormat": "formats",
    "DatasetEntry": "datasets",
    "DatasetError": "errors",
    "DuplicateNameError": "errors",
    "FakeQuantized": "scaling",
    "Family": "registry",
    "FloatFormat": "formats",
    "Format": "formats",
    "FormatError": "errors",
    "Granularity": "scaling",
    "IdentityFormat": "formats",
    "IntFormat": "formats",
    "LayerError": "errors",
    "Manager": "manager",
    "Mode": "scaling",
    "ModeError": "errors",
    "ModelEntry": "models",
    "ModelError": "errors",
    "NameNotFoundError": "errors",
    "Observer": "scaling",
    "Overflow": "formats",
    "PerBlock": "scaling",
    "PerChannel": "scaling",
    "PerChunk": "scaling",
    "PerTensor": "scaling",
    "PerToken": "scaling",
    "PluginError": "errors",
    "PolicyEntry": "policies",
    "PolicyError": "errors",
    "PowerOfTwo": "scaling",
    "QBenchError": "errors",
    "QuantFunction": "layers",
    "QuantModule": "layers",
    "Quantized": "layers",
    "QuantizedTensor": "scaling",
    "Quantizer": "scaling",
    "Quantizing": "layers",
    "Range": "scaling",
    "RangeRule": "scaling",
    "ResultsError": "errors",
    "Role": "layers",
    "RoleQuantizers": "layers",
    "RoundKernel": "formats",
    "Rounding": "formats",
    "ScaleRule": "scaling",
    "SelectionError": "errors",
    "Specials": "formats",
    "TwoLevel": "scaling",
    "UnknownHookError": "errors",
    "default_manager": "manager",
    "hookimpl": "hookspecs",
    "load": "results",
}

__all__ = sorted(["__version__", *_HOME])  # noqa: PLE0605 - a test holds it equal to the imports above


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
