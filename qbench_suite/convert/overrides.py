"""Overrides: formats, modes and ranges by role, as one entry of a policy gives them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from qbench_suite.layers.quantizing import Role
from qbench_suite.yaml_lines import Key

#: Leaves a role float, in place of a format.
NONE = "none"
#: The format that the key ``format`` names, in place of one of its own.
SAME = "same"
#: The range that every scale rule has by itself: no range rule.
ABSMAX = "absmax"
#: The rounding that every quantizer does by itself: no rounding rule.
NEAREST = "nearest"
#: The mode of what names none.
DEFAULT_MODE = "tensor"
#: The mode that takes its size from ``chunk_size``.
_CHUNK = "chunk"
#: Sizes that modes are given are below this; no tensor comes near it.
_MAX_SIZE = 2**31
#: Roles that the key ``format`` sets; the others are quantized where their own format is given.
BASE_ROLES = (Role.WEIGHT, Role.INPUT)

FormatName = Annotated[str | None, Field(min_length=1, examples=["fp8_e4m3"])]
ModeName = Annotated[str | None, Field(min_length=1, examples=["channel"])]
RangeName = Annotated[str | None, Field(min_length=1, examples=[ABSMAX])]
KernelName = Annotated[str | None, Field(min_length=1, examples=["w8a16"])]
RoundingName = Annotated[str | None, Field(min_length=1, examples=[NEAREST])]
Size = Annotated[int | None, Field(gt=0, lt=_MAX_SIZE, examples=[128])]


class Setting(NamedTuple):
    """A value of a policy, and where it was written."""

    value: str
    #: Empty for a default, which nobody wrote.
    key: Key = ()


_TO_NEAREST = Setting(NEAREST)
_EMULATED = Setting(NONE)


@dataclass(frozen=True)
class RoleSettings:
    """What holds for one role in the end."""

    format: Setting
    mode: Setting
    range: Setting
    #: Of weights alone; all others go to the nearest value.
    rounding: Setting = _TO_NEAREST
    #: What multiplies with them, of weights alone; by default the float arithmetic that emulates.
    kernel: Setting = _EMULATED

    @property
    def rounded(self) -> bool:
        """Whether the role is quantized, by a rounding rule."""
        return self.quantized and self.rounding.value != NEAREST

    @property
    def computed(self) -> bool:
        """Whether the role is quantized, and a kernel multiplies with it."""
        return self.quantized and self.kernel.value != NONE

    @property
    def quantized(self) -> bool:
        """Whether the role has a format at all."""
        return self.format.value != NONE


class Overrides(BaseModel):
    """Keys that any entry of a policy may have; those not given change nothing.

    ``format`` sets the formats of weights and inputs, ``mode`` and ``range`` those of every role; the
    keys that begin with a role go before them. ``none`` in place of a mapping leaves every role
    float, ``same`` changes nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    #: Keys that may be written with nothing behind them.
    may_be_empty: ClassVar[frozenset[str]] = frozenset()

    format: FormatName = None
    mode: ModeName = None
    chunk_size: Size = None
    range: RangeName = None
    weight_format: FormatName = None
    weight_mode: ModeName = None
    weight_chunk_size: Size = None
    weight_range: RangeName = None
    weight_rounding: RoundingName = None
    kernel: KernelName = None
    input_format: FormatName = None
    input_mode: ModeName = None
    input_chunk_size: Size = None
    input_range: RangeName = None
    act_format: FormatName = None
    act_mode: ModeName = None
    act_chunk_size: Size = None
    act_range: RangeName = None
    output_format: FormatName = None
    output_mode: ModeName = None
    output_chunk_size: Size = None
    output_range: RangeName = None
    statistics_format: FormatName = None
    statistics_mode: ModeName = None
    statistics_chunk_size: Size = None
    statistics_range: RangeName = None

    @model_validator(mode="before")
    @classmethod
    def _words(cls, data: Any) -> Any:
        """``none`` and ``same`` written out; nothing written behind a key is no value."""
        if data == NONE:
            return {"format": NONE, **{f"{role}_format": NONE for role in Role}}
        if data == SAME:
            return {}
        if not isinstance(data, dict):
            return data
        for key in (key for key, value in data.items() if value is None):
            if key in cls.model_fields and key not in cls.may_be_empty:
                raise conflict(key, f"{key} has a value", "nothing", "give one, or drop the line")
        return {key: value for key, value in data.items() if value is not None}

    @model_validator(mode="after")
    def _sizes_fit_modes(self) -> Self:
        served = any(
            getattr(self, f"{role}_mode") == _CHUNK and getattr(self, f"{role}_chunk_size") is None
            for role in Role
        )
        for prefix in ("", *(f"{role}_" for role in Role)):
            mode, size = getattr(self, f"{prefix}mode"), getattr(self, f"{prefix}chunk_size")
            if _oversized(mode or ""):
                raise conflict(
                    f"{prefix}mode", "sizes in a mode are below 2**31", mode, "choose a smaller one"
                )
            if mode == _CHUNK and size is None and self.chunk_size is None:
                remedy = (
                    f"write {prefix}chunk_size beside it, or for instance {prefix}mode: chunk128"
                )
                raise conflict(f"{prefix}mode", "mode chunk has a chunk_size", "none", remedy)
            if size is not None and mode != _CHUNK and (prefix or not served):
                raise conflict(
                    f"{prefix}chunk_size",
                    f"{prefix}chunk_size goes with {prefix}mode: {_CHUNK} in the same entry",
                    f"{size} with {'no mode' if mode is None else f'mode {mode}'}",
                    f"write {prefix}mode: {_CHUNK}, or drop it",
                )
        return self

    def written(self) -> Iterator[tuple[str, Setting]]:
        """(``<role>_format``, ``_mode``, ``_range`` or ``_rounding``, its setting); later ones win.

        ``kernel`` is among them, and ``format`` itself, as ``same`` refers to it. Keys are relative to
        this entry.
        """
        if self.format is not None:
            yield "format", Setting(self.format, ("format",))
        for prefix in ("", *(f"{role}_" for role in Role)):
            for kind, value in self._values(prefix):
                targets = [f"{prefix}{kind}"]
                if not prefix:
                    roles = BASE_ROLES if kind == "format" else tuple(Role)
                    targets = [f"{role}_{kind}" for role in roles]
                for target in targets:
                    yield target, Setting(value, (f"{prefix}{kind}",))
        if self.weight_rounding is not None:
            yield "weight_rounding", Setting(self.weight_rounding, ("weight_rounding",))
        if self.kernel is not None:
            yield "kernel", Setting(self.kernel, ("kernel",))

    def _values(self, prefix: str) -> Iterator[tuple[str, str]]:
        for kind in ("format", "mode", "range"):
            value = getattr(self, f"{prefix}{kind}")
            if kind == "mode" and value == _CHUNK:
                value = f"{_CHUNK}{getattr(self, f'{prefix}chunk_size') or self.chunk_size}"
            if value is not None:
                yield kind, value

    @property
    def leaves_float(self) -> bool:
        """Whether ``none`` is all it says."""
        values = {setting.value for _, setting in self.written()}
        return values == {NONE}

    def names_role(self, role: Role) -> str:
        """The first key given that is about ``role`` alone and does not leave it float, or nothing."""
        for kind in ("format", "mode", "range", "chunk_size", "rounding"):
            key = f"{role}_{kind}"
            if getattr(self, key, None) not in (None, NONE):
                return key
        return ""


class PatternOverrides(Overrides):
    """An entry for the sites that a pattern matches."""

    #: Whether the pattern may match nothing, as in a policy for many models.
    optional: bool = False


def merged(levels: Iterable[tuple[Key, Overrides]]) -> Mapping[Role, RoleSettings]:
    """What holds for each role where entries are laid over one another; later ones win, key by key.

    ``levels``: where each entry stands in the policy, and the entry.
    """
    found: dict[str, Setting] = {}
    for key, overrides in levels:
        for target, setting in overrides.written():
            found[target] = Setting(setting.value, (*key, *setting.key))
    base = found.get("format", Setting(NONE))
    settings = {}
    for role in Role:
        format = found.get(f"{role}_format", Setting(NONE))
        if format.value == SAME:
            format = Setting(base.value, format.key)
        settings[role] = RoleSettings(
            format,
            found.get(f"{role}_mode", Setting(DEFAULT_MODE)),
            found.get(f"{role}_range", Setting(ABSMAX)),
            found.get(f"{role}_rounding", _TO_NEAREST),
            found.get("kernel", _EMULATED) if role is Role.WEIGHT else _EMULATED,
        )
    return settings


def _oversized(mode: str) -> bool:
    """Whether a number in the name of a mode is absurd; long ones are not even converted."""
    return any(len(n) > 10 or int(n) >= _MAX_SIZE for n in re.findall(r"[0-9]+", mode))


def conflict(key: str | Key, invariant: str, received: str, remedy: str) -> PydanticCustomError:
    """A mistake that ``read_policy`` reports at ``key`` of the entry that is being validated."""
    context = {"key": key, "invariant": invariant, "received": received, "remedy": remedy}
    return PydanticCustomError("conflict", "{invariant}; got {received}; {remedy}", context)
