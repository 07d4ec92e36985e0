"""Fingerprint of a float model: a digest of everything that its logits depend on beyond the input."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qbench_suite.engine.machine import version_of

#: Packages that models are made of, with code that is not read here.
_PACKAGES = ("torch", "timm", "torchvision")
_PRIMITIVES = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.dtype,
    torch.device,
    torch.memory_format,
)
#: Attributes that every module has and that say nothing about what it gives.
_COMMON = frozenset(vars(nn.Module())) - {"training", "_forward_hooks", "_forward_pre_hooks"}


def fingerprint(module: nn.Module, device: torch.device) -> str:
    """A digest of parameters, buffers, code, plain attributes, versions and the kind of device.

    Buffers count whether or not a state dict holds them. Of each submodule count its class with the
    methods and files of its ancestors up to ``nn.Module``, and the attributes made of numbers,
    strings, dtypes, tensors, functions, dataclasses, and tuples, lists and dicts of these. Other
    objects count by their class alone.
    """
    # Weights are most of the work, and SHA-1 is the quickest digest here.
    found = hashlib.sha1(usedforsecurity=False)
    versions = [version_of(package) for package in _PACKAGES]
    found.update(f"{sys.version_info} {versions} {device.type}".encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(content(tensor))
    seen = _Seen()
    for name, part in module.named_modules(remove_duplicate=False):
        found.update(f"\n{name}:{','.join(seen.module(part))}".encode())
    return found.hexdigest()


def content(tensor: Tensor) -> Any:
    """The content as an array of bytes, without a copy where it lies in order on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()


class _Seen:
    """Words for what one model holds, alike in every process; what was met before is a number."""

    def __init__(self) -> None:
        # Values are held, so that none takes the place of another.
        self._met: dict[int, tuple[int, object]] = {}
        self._files: dict[str, str] = {}

    def module(self, module: nn.Module) -> Iterator[str]:
        """Words for the class of ``module`` and for its attributes."""
        yield from self._class(type(module))
        held = vars(module)
        for name in sorted(held.keys() - _COMMON):
            value = held[name]
            # Hooks are known by numbers that grow through the life of a process.
            kept = tuple(value.values()) if name.endswith("_hooks") else value
            yield name
            yield from self.value(kept)

    def value(self, value: object) -> Iterator[str]:
        """Words for any value."""
        if value is None or isinstance(value, _PRIMITIVES):
            yield f"{type(value).__name__} {value!r}"
        elif isinstance(value, type):
            yield _name(value)
        elif isinstance(value, tuple):
            yield f"tuple {len(value)}"
            for part in value:
                yield from self.value(part)
        elif isinstance(value, types.MethodType):
            yield from self.value(value.__func__)
        elif id(value) in self._met:
            yield f"#{self._met[id(value)][0]}"
        else:
            self._met[id(value)] = len(self._met), value
            yield from self._parts(value)

    def _parts(self, value: object) -> Iterator[str]:
        yield _name(type(value))
        if isinstance(value, dict):
            yield from self.value(tuple(value.items()))
        elif isinstance(value, list):
            yield from self.value(tuple(value))
        elif isinstance(value, set | frozenset):
            yield from sorted(" ".join(self.value(part)) for part in value)
        elif isinstance(value, Tensor):
            yield f"{tuple(value.shape)} {value.dtype} {_digest(content(value))}"
        elif isinstance(value, nn.Module):
            yield from self.module(value)
            held = (value.named_parameters(), value.named_buffers(), value.children())
            yield from self.value(tuple(part for parts in held for part in parts))
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        else:
            yield from self.value(_plain(value))

    def _class(self, kind: type) -> Iterator[str]:
        yield _name(kind)
        if id(kind) in self._met:
            return
        self._met[id(kind)] = len(self._met), kind
        for base in kind.__mro__[:-1]:
            if base is nn.Module:
                break
            yield f"{_name(base)} {self._file(base)}"
            for name, member in vars(base).items():
                inner = getattr(member, "fget", getattr(member, "__func__", member))
                plain = isinstance(inner, _PRIMITIVES) and not name.startswith("__")
                if plain or isinstance(inner, types.FunctionType):
                    yield from self.value((name, inner))

    def _function(self, function: types.FunctionType) -> Iterator[str]:
        """Its name, code, defaults, what it closes over, and the plain globals that it reads."""
        yield f"{function.__module__}.{function.__qualname__} {_digest(_code(function.__code__))}"
        yield from self.value((function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # not filled yet
                yield from self.value(cell.cell_contents)
        if function.__module__.partition(".")[0] in _PACKAGES:
            return
        for name in function.__code__.co_names:
            used = function.__globals__.get(name)
            if isinstance(used, (types.FunctionType, *_PRIMITIVES)):
                yield from self.value((name, used))

    def _file(self, kind: type) -> str:
        """A digest of the file that ``kind`` is written in; empty for one made at run time."""
        try:
            file = inspect.getfile(kind)
            if file not in self._files:
                self._files[file] = _digest(Path(file).read_bytes())
        except (OSError, TypeError):
            return ""
        return self._files[file]


def _plain(value: object) -> object:
    """What is inside an object of another kind, as a tuple; its own name where it has one."""
    if isinstance(value, functools.partial):
        return (value.func, value.args, value.keywords)
    if isinstance(value, enum.Enum):
        return value.name
    if is_dataclass(value):
        return tuple(getattr(value, field.name, None) for field in fields(value))
    if isinstance(value, types.SimpleNamespace):
        return tuple(vars(value).items())
    return getattr(value, "__qualname__", None) if callable(value) else None


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _code(code: types.CodeType) -> bytes:
    """What ``code`` does, whatever lines it is written in."""
    words = [code.co_code.hex(), repr((code.co_names, code.co_varnames, code.co_freevars))]
    for held in code.co_consts:
        if isinstance(held, types.CodeType):
            words.append(_code(held).hex())
        else:
            # The order of a set differs from process to process.
            words.append(repr(sorted(map(repr, held)) if isinstance(held, frozenset) else held))
    return " ".join(words).encode()


def _digest(data: Any) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
