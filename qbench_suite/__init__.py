"""qbench_suite: pytest for low-precision models. These names are public; all others may change."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qbench_suite.calibration.adaround import (
        AdaRound as AdaRound,
    )
    from qbench_suite.calibration.gptq import (
        GPTQ as GPTQ,
    )
    from qbench_suite.calibration.rounding import (
        Nearest as Nearest,
        RoundingProblem as RoundingProblem,
        RoundingRule as RoundingRule,
    )
    from qbench_suite.compliance.integer import (
        FloatUse as FloatUse,
        IntegerAudit as IntegerAudit,
        IntegerVerdict as IntegerVerdict,
        audit_compiled as audit_compiled,
        audit_disassembly as audit_disassembly,
        audit_dispatch as audit_dispatch,
        audit_exported as audit_exported,
        audit_integer as audit_integer,
        audit_state as audit_state,
    )
    from qbench_suite.datasets import DatasetEntry as DatasetEntry
    from qbench_suite.errors import (
        BrokenImageError as BrokenImageError,
        ConversionError as ConversionError,
        DatasetError as DatasetError,
        DeviceError as DeviceError,
        DuplicateNameError as DuplicateNameError,
        FormatError as FormatError,
        KernelError as KernelError,
        LaunchError as LaunchError,
        LayerError as LayerError,
        ModeError as ModeError,
        ModelError as ModelError,
        NameNotFoundError as NameNotFoundError,
        PluginError as PluginError,
        PolicyError as PolicyError,
        QBenchError as QBenchError,
        ResultsError as ResultsError,
        SelectionError as SelectionError,
        UnknownHookError as UnknownHookError,
    )
    from qbench_suite.formats import (
        CodebookFormat as CodebookFormat,
        FloatFormat as FloatFormat,
        Format as Format,
        IdentityFormat as IdentityFormat,
        IntFormat as IntFormat,
        Overflow as Overflow,
        Rounding as Rounding,
        RoundKernel as RoundKernel,
        Specials as Specials,
    )
    from qbench_suite.gpu import (
        SM_75 as SM_75,
        SM_80 as SM_80,
        SM_89 as SM_89,
        SM_90 as SM_90,
        SM_100 as SM_100,
        SM_120 as SM_120,
        Architecture as Architecture,
        CudaFunction as CudaFunction,
        CudaSource as CudaSource,
        LaunchPlan as LaunchPlan,
        MetalFunction as MetalFunction,
        MetalSource as MetalSource,
        Resources as Resources,
        architecture_of as architecture_of,
        emulating as emulating,
        guarded as guarded,
        inspect_function as inspect_function,
        inspection_unavailable as inspection_unavailable,
    )
    from qbench_suite.hookspecs import hookimpl as hookimpl
    from qbench_suite.integers import (
        IntegerMethod as IntegerMethod,
        IntegerModel as IntegerModel,
    )
    from qbench_suite.layers import (
        LinearMap as LinearMap,
        QuantFunction as QuantFunction,
        Quantized as Quantized,
        Quantizing as Quantizing,
        QuantModule as QuantModule,
        Role as Role,
        RoleQuantizers as RoleQuantizers,
    )
    from qbench_suite.layers.integer import (
        IntegerBlock as IntegerBlock,
    )
    from qbench_suite.linears import (
        LinearEntry as LinearEntry,
    )
    from qbench_suite.manager import Manager as Manager, default_manager as default_manager
    from qbench_suite.models import ModelEntry as ModelEntry
    from qbench_suite.native import (
        NativeLibrary as NativeLibrary,
    )
    from qbench_suite.norms import (
        NORM_OPERATIONS as NORM_OPERATIONS,
        NormKernel as NormKernel,
        NormOperation as NormOperation,
        NormProblem as NormProblem,
        UlpErrors as UlpErrors,
        backward_of as backward_of,
        cuda_norm_kernel as cuda_norm_kernel,
        cuda_unavailable as cuda_unavailable,
        ulp_errors as ulp_errors,
    )
    from qbench_suite.policies import PolicyEntry as PolicyEntry
    from qbench_suite.registry import Family as Family
    from qbench_suite.results import load as load
    from qbench_suite.scaling import (
        AbsMax as AbsMax,
        Axes as Axes,
        FakeQuantized as FakeQuantized,
        Granularity as Granularity,
        Mode as Mode,
        Observer as Observer,
        PerBlock as PerBlock,
        PerChannel as PerChannel,
        PerChunk as PerChunk,
        PerTensor as PerTensor,
        PerToken as PerToken,
        PowerOfTwo as PowerOfTwo,
        QuantizedTensor as QuantizedTensor,
        Quantizer as Quantizer,
        Range as Range,
        RangeRule as RangeRule,
        ScaleRule as ScaleRule,
        TwoLevel as TwoLevel,
    )

__version__ = "0.1.0"

#: Public name → the module it lives in; imported when first used, so that ``qbench --help`` and
#: plugins that are only listed need not import torch.
_HOME = {
    "AbsMax": "scaling",
    "AdaRound": "calibration.adaround",
    "Architecture": "gpu",
    "Axes": "scaling",
    "BrokenImageError": "errors",
    "CodebookFormat": "formats",
    "ConversionError": "errors",
    "CudaFunction": "gpu",
    "CudaSource": "gpu",
    "DatasetEntry": "datasets",
    "DatasetError": "errors",
    "DeviceError": "errors",
    "DuplicateNameError": "errors",
    "FakeQuantized": "scaling",
    "Family": "registry",
    "FloatFormat": "formats",
    "FloatUse": "compliance.integer",
    "Format": "formats",
    "FormatError": "errors",
    "GPTQ": "calibration.gptq",
    "Granularity": "scaling",
    "IdentityFormat": "formats",
    "IntFormat": "formats",
    "IntegerAudit": "compliance.integer",
    "IntegerBlock": "layers.integer",
    "IntegerMethod": "integers",
    "IntegerModel": "integers",
    "IntegerVerdict": "compliance.integer",
    "KernelError": "errors",
    "LaunchError": "errors",
    "LaunchPlan": "gpu",
    "LayerError": "errors",
    "LinearEntry": "linears",
    "LinearMap": "layers",
    "Manager": "manager",
    "Mode": "scaling",
    "MetalFunction": "gpu",
    "MetalSource": "gpu",
    "ModeError": "errors",
    "ModelEntry": "models",
    "ModelError": "errors",
    "NORM_OPERATIONS": "norms",
    "NameNotFoundError": "errors",
    "NativeLibrary": "native",
    "Nearest": "calibration.rounding",
    "NormKernel": "norms",
    "NormOperation": "norms",
    "NormProblem": "norms",
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
    "Resources": "gpu",
    "ResultsError": "errors",
    "Role": "layers",
    "RoleQuantizers": "layers",
    "RoundKernel": "formats",
    "Rounding": "formats",
    "RoundingProblem": "calibration.rounding",
    "RoundingRule": "calibration.rounding",
    "SM_100": "gpu",
    "SM_120": "gpu",
    "SM_75": "gpu",
    "SM_80": "gpu",
    "SM_89": "gpu",
    "SM_90": "gpu",
    "ScaleRule": "scaling",
    "SelectionError": "errors",
    "Specials": "formats",
    "TwoLevel": "scaling",
    "UlpErrors": "norms",
    "UnknownHookError": "errors",
    "architecture_of": "gpu",
    "audit_compiled": "compliance.integer",
    "audit_disassembly": "compliance.integer",
    "audit_dispatch": "compliance.integer",
    "audit_exported": "compliance.integer",
    "audit_integer": "compliance.integer",
    "audit_state": "compliance.integer",
    "backward_of": "norms",
    "cuda_norm_kernel": "norms",
    "cuda_unavailable": "norms",
    "default_manager": "manager",
    "emulating": "gpu",
    "guarded": "gpu",
    "hookimpl": "hookspecs",
    "inspect_function": "gpu",
    "inspection_unavailable": "gpu",
    "load": "results",
    "ulp_errors": "norms",
}

__all__ = sorted(["__version__", *_HOME])  # noqa: PLE0605 - a test holds it equal to the imports above


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
