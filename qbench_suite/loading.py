"""Loading: what a plugin is, which hooks it has, and what is noted where it cannot be used."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from qbench_suite import hookspecs
from qbench_suite.errors import (
    DuplicateNameError,
    PluginFileError,
    QBenchError,
    UnknownHookError,
)
from qbench_suite.registry import Owner, near_misses

_KNOWN = [name for name in vars(hookspecs) if name.startswith("qbench_")]


@dataclass(frozen=True)
class Problem:
    """A plugin that is not in use, and why."""

    #: What was loaded: a module, a file or an entry point.
    plugin: str
    #: The error, one line.
    reason: str
    #: What its owner can do.
    remedy: str
    #: Whether cases must not run before it is mended, as it makes names ambiguous or hooks dead.
    fatal: bool = False
    #: Where it happened.
    trace: str = ""


@dataclass(frozen=True)
class Plugin:
    """A plugin in use."""

    owner: Owner
    #: Names of the hooks it implements.
    hooks: tuple[str, ...]
    #: The module, or any object, that has them.
    module: object


def hooks_of(plugin: object) -> tuple[str, ...]:
    """Names of the plugin's hooks; raises ``UnknownHookError`` for one that would never be called."""
    found = []
    for name, function in functions_of(plugin):
        marked = getattr(function, f"{hookspecs.PROJECT}_impl", None)
        hook = (marked and marked["specname"]) or name
        if hook not in _KNOWN:
            raise UnknownHookError(
                f"A qbench_* function answers to a hook; {hook!r} does not. "
                f"{near_misses(hook, _KNOWN)}"
            )
        if marked is None:
            raise UnknownHookError(
                f"A hook is decorated with @qbench_suite.hookimpl; {name!r} is not. Decorate it."
            )
        found.append(hook)
    return tuple(found)


def functions_of(plugin: object) -> list[tuple[str, object]]:
    """Functions of ``plugin`` that are marked as hooks, or named like them."""
    return [
        (name, value)
        for name in dir(plugin)
        if inspect.isroutine(value := getattr(plugin, name, None))
        if name.startswith("qbench_") or hasattr(value, f"{hookspecs.PROJECT}_impl")
    ]


def import_file(path: Path) -> ModuleType:
    """The module that one Python file makes up; raises ``PluginFileError`` where there is none."""
    if not path.is_file() or path.suffix != ".py":
        raise PluginFileError(
            f"A plugin file is a Python file, named *.py; {path} is none. Check the path."
        )
    # Two files may share a stem; each is a module of its own.
    name = f"qbench_plugin_{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # torch.compile and pickle look classes up by their module's name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    if not functions_of(module):
        raise PluginFileError(
            f"A plugin file has a function marked @hookimpl; {path} has none. Mark one, for instance "
            "qbench_register_formats(register)."
        )
    return module


def problem_of(owner: Owner, error: BaseException) -> Problem:
    """What to tell of a plugin that raised ``error`` while it was loaded or called."""
    remedy = f"Mend it, or pass --qbench-disable-plugin {owner.module}."
    if isinstance(error, ModuleNotFoundError):
        remedy = f"Install {error.name}, or pass --qbench-disable-plugin {owner.module}."
    reason = str(error) if isinstance(error, QBenchError) else f"{type(error).__name__}: {error}"
    return Problem(
        plugin=str(owner),
        reason=" ".join(reason.split()).rstrip(".") + ".",
        remedy="" if "--qbench-disable-plugin" in reason else remedy,
        fatal=isinstance(error, DuplicateNameError | UnknownHookError | PluginFileError),
        trace="".join(traceback.format_exception(error)),
    )
