"""The errors of qbench_suite: one class a kind of mistake, each refining a builtin.

::

    QBenchError
    ├── NameNotFoundError (LookupError)   a name no registry holds
    ├── DuplicateNameError (ValueError)   two plugins register one name
    ├── PluginError (RuntimeError)        a plugin that cannot be used
    │   ├── PluginFileError           a plugin file that is not there
    │   └── UnknownHookError          a qbench_* function no hook answers to
    ├── FormatError (ValueError)          a format that breaks its own contract
    ├── ModeError (ValueError)            a mode that does not fit a tensor or a format
    ├── LayerError (ValueError)           a module that cannot become a quantized layer
    ├── ModelError (ValueError)           a model or checkpoint that cannot be used
    ├── PolicyError (ValueError)          a policy that cannot be read, or does not fit its model
    ├── ConversionError (RuntimeError)    a model that cannot be converted or run converted
    ├── KernelError (RuntimeError)        a kernel that cannot be compiled, loaded or launched
    │   ├── DeviceError (ValueError)  tensors on a device that a kernel does not run on
    │   └── LaunchError               a launch that the device does not allow
    ├── DatasetError (ValueError)         a dataset that cannot be used
    │   └── BrokenImageError          one image of it that cannot be read
    ├── SelectionError (ValueError)       options that select no case
    └── ResultsError (OSError)            a results folder that cannot be read or written

Every message says the invariant, what was received, and the remedy.
"""

from __future__ import annotations


class QBenchError(Exception):
    """Base of every error that qbench_suite raises on purpose."""


class NameNotFoundError(QBenchError, LookupError):
    """A name was asked for that no registry holds; the message offers the nearest names."""


class DuplicateNameError(QBenchError, ValueError):
    """Two plugins register the same name; the message names both owners."""


class PluginError(QBenchError, RuntimeError):
    """A plugin cannot be imported, or one of its hooks raised."""


class PluginFileError(PluginError):
    """A plugin file was named that is not there, or is no Python file."""


class UnknownHookError(PluginError):
    """A plugin has a ``qbench_*`` function that answers to no hook, or lacks ``@hookimpl``."""


class FormatError(QBenchError, ValueError):
    """A format breaks its own contract, for instance ``round`` returns another shape."""


class ModeError(QBenchError, ValueError):
    """A mode does not exist, or does not fit the tensor or the format it is used with."""


class LayerError(QBenchError, ValueError):
    """A module cannot become a quantized layer."""


class ModelError(QBenchError, ValueError):
    """A model or a checkpoint cannot be built, read or run."""


class KernelError(QBenchError, RuntimeError):
    """A kernel cannot be compiled, loaded or launched."""


class DeviceError(KernelError, ValueError):
    """Tensors are on a device that a kernel does not run on, or on several."""


class LaunchError(KernelError):
    """A kernel is launched in a shape, or with arguments, that the device or the kernel refuses."""


class DatasetError(QBenchError, ValueError):
    """A dataset cannot be read, or does not fit the model that wants it."""


class BrokenImageError(DatasetError):
    """One image of a dataset cannot be read; the message names it."""


class PolicyError(QBenchError, ValueError):
    """A policy cannot be read, contradicts itself or does not fit its model; names file and line."""


class ConversionError(QBenchError, RuntimeError):
    """A model cannot be converted, or does not run once it is."""


class SelectionError(QBenchError, ValueError):
    """The options given select no case at all."""


class ResultsError(QBenchError, OSError):
    """A results folder or journal cannot be read or written."""
