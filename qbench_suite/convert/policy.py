"""Policy: what of a model is quantized to what, read from YAML and checked for contradictions."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic import model_validator as validator

from qbench_suite.convert.mistakes import policy_error
from qbench_suite.convert.overrides import (
    BASE_ROLES,
    NEAREST,
    NONE,
    SAME,
    Overrides,
    PatternOverrides,
    RoleSettings,
    conflict,
    merged,
)
from qbench_suite.errors import PolicyError
from qbench_suite.layers.quantizing import Role
from qbench_suite.manager import Manager
from qbench_suite.yaml_lines import Document, Key, read_yaml, sentence

#: Roles of tensors that differ from input to input, whose scales may be dynamic or static.
ACTIVATIONS = (Role.INPUT, Role.ACT, Role.OUTPUT)

Count = Annotated[int, Field(gt=0, lt=2**63, examples=[256])]
Patterns = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    Field(examples=[["head", "blocks.0.*"]]),
]
Entries = Annotated[dict[str, PatternOverrides], Field(examples=[{"head": NONE}])]


class Calibration(BaseModel):
    """The images that static scales, and weights that are not rounded to nearest, come from."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    #: How many.
    images: Count = 256
    #: Seed of the choice among them.
    seed: Annotated[int, Field(ge=0, lt=2**63, examples=[0])] = 0
    #: Images in a batch.
    batch: Count = 32
    #: Dataset whose training split they are taken from; None for the one evaluated on.
    dataset: Annotated[str | None, Field(min_length=1, examples=["digits"])] = None


class Policy(Overrides):
    """What of a model is quantized to what.

    Entries are laid over one another: the policy's own keys, then ``types``, ``layers`` (of each,
    later ones win), ``first_layer`` and ``last_layer``; ``exclude`` has the last word.
    """

    may_be_empty: ClassVar[frozenset[str]] = frozenset({"layers", "types", "exclude"})

    #: What ``qbench policy show`` and ``qbench sensitivity`` call it, by default the file's name
    #: without folder and ending. Tables and case ids go by the registered name or the file.
    name: Annotated[str, Field(min_length=1, pattern=r"^[^/\\]+$", examples=["my_policy"])] = (
        "policy"
    )
    #: One line on what it is for.
    description: Annotated[str, Field(examples=["FP8 but for the head"])] = ""
    #: Which sites the policy's own keys reach: those that multiply and add, or all with a twin.
    scope: Literal["multiply_add", "all"] = "multiply_add"
    #: Overrides by pattern of a site's type: class of the float module, or kind of a call.
    types: Entries = Field(default_factory=dict)
    #: Overrides by pattern of a site's name.
    layers: Entries = Field(default_factory=dict)
    #: Patterns of names that stay float whatever else is said.
    exclude: Patterns = ()
    #: Overrides of the stem: what reads the images, usually one convolution.
    first_layer: Annotated[Overrides, Field(examples=[NONE])] = Overrides()
    #: Overrides of the classifier: what gives the logits, the second head of a distilled model too.
    last_layer: Annotated[Overrides, Field(examples=[NONE])] = Overrides()
    #: When scales of activations are computed: at every forward, or once from calibration images.
    scales: Literal["dynamic", "static"] = "dynamic"
    #: The images that static scales and rounding rules learn from.
    calibration: Calibration = Calibration()
    #: Whether batch norms are multiplied into the convolutions before them first.
    fold_batch_norm: bool = False

    _document: Document | None = PrivateAttr(default=None)

    @validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        for index, pattern in enumerate(self.exclude):
            if pattern in self.layers:
                raise conflict(
                    ("exclude", index),
                    "a pattern is excluded or has settings, not both",
                    f"{pattern!r} in exclude and in layers",
                    "drop one of the two",
                )
        if self.scales == "dynamic" and "calibration" in self.model_fields_set and not self.rounds:
            raise conflict(
                "calibration",
                "calibration is for static scales, or a weight_rounding that learns",
                "scales: dynamic",
                "write scales: static, or drop calibration",
            )
        self._check_same()
        self._check_something_is_quantized()
        self._check_weights_are_quantized()
        return self

    def _check_same(self) -> None:
        """Raise where ``same`` stands for a format that nothing names."""
        named = any(entry.format not in (None, NONE) for _, entry in self.entries())
        for key, entry in self.entries():
            for role in Role:
                if getattr(entry, f"{role}_format") != SAME:
                    continue
                # A format that comes from elsewhere is written over `same` where that is weaker.
                alone = entry.format is not None if key else role in BASE_ROLES
                if not (entry.format not in (None, NONE) if alone else named):
                    raise conflict(
                        (*key, f"{role}_format"),
                        "same is the format that the key format names",
                        f"{role}_format: same with {_said('format', entry.format)}",
                        f"write {role}_format and a name of `qbench list formats`, or none",
                    )

    def _check_something_is_quantized(self) -> None:
        """Raise where nothing is, and the policy does not say so; where scales are of nothing."""
        quantized = {role for v in self.variants for role, s in v.items() if s.quantized}
        if not quantized and self.format != NONE:
            raise conflict(
                (),
                "a policy says what is quantized to what",
                "no format at all" if self.format is None else f"format: {self.format} for no role",
                "write format: and a name of `qbench list formats`, or format: none for a float model",
            )
        if self.scales == "static" and quantized.isdisjoint(ACTIVATIONS):
            raise conflict(
                "scales",
                "static scales are of activations, quantized ones",
                "scales: static, and no role of activations with a format",
                "drop scales and calibration, or write for instance input_format",
            )

    def _check_weights_are_quantized(self) -> None:
        """Raise where a rounding rule or a kernel is named, and no weight that it is for is quantized."""
        for (key, entry), variant in zip(self.entries(), self.variants, strict=True):
            weights = [variant[Role.WEIGHT]] if key else [v[Role.WEIGHT] for v in self.variants]
            for name, nothing, served in (
                ("weight_rounding", NEAREST, any(weight.rounded for weight in weights)),
                ("kernel", NONE, any(weight.computed for weight in weights)),
            ):
                value = getattr(entry, name)
                if value not in (None, nothing) and not served:
                    verb = "rounded" if nothing == NEAREST else "multiplied by a kernel"
                    raise conflict(
                        (*key, name),
                        f"weights that are quantized are {verb}",
                        f"{name}: {value}, and no format of weights",
                        f"write weight_format, for instance int4, or drop {name}",
                    )

    def entries(self) -> Iterator[tuple[Key, Overrides]]:
        """Where each entry stands, and the entry, in order of precedence; the policy itself first."""
        yield (), self
        for section, entries in (("types", self.types), ("layers", self.layers)):
            for pattern, overrides in entries.items():
                yield (section, pattern), overrides
        yield ("first_layer",), self.first_layer
        yield ("last_layer",), self.last_layer

    @functools.cached_property
    def variants(self) -> tuple[Mapping[Role, RoleSettings], ...]:
        """What holds by the policy's own keys, then with each entry laid over them."""
        (_, base), *others = self.entries()
        alone = merged([((), base)])
        return (alone, *(merged([((), base), entry]) for entry in others))

    @property
    def formats(self) -> tuple[str, ...]:
        """Every format that a site may get, sorted."""
        named = {s.format.value for variant in self.variants for s in variant.values()}
        return tuple(sorted(named - {NONE, SAME}))

    @property
    def static(self) -> bool:
        """Whether any activation has static scales, so that calibration is needed."""
        activations = (v[role] for v in self.variants for role in ACTIVATIONS)
        return self.scales == "static" and any(s.quantized for s in activations)

    @property
    def rounds(self) -> bool:
        """Whether any weight is rounded by a rule, so that calibration is needed."""
        return any(variant[Role.WEIGHT].rounded for variant in self.variants)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Every kernel that a site may get, sorted."""
        weights = (variant[Role.WEIGHT] for variant in self.variants)
        return tuple(sorted({weight.kernel.value for weight in weights if weight.computed}))

    @property
    def calibrated(self) -> bool:
        """Whether anything comes from calibration images."""
        return self.static or self.rounds

    @functools.cached_property
    def digest(self) -> str:
        """First 12 digits of the SHA-256 of the policy as resolved.

        Policies that say the same have the same, however they are written, named and described.
        """
        text = json.dumps(self._resolved(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def error(
        self, key: Key, invariant: str, received: str, remedy: str, *, of_value: bool = True
    ) -> PolicyError:
        """The mistake at ``key``, with file and line where the policy was read from one."""
        if self._document is None:
            place = ".".join(map(str, key))
            where = f"policy {self.name}" + (f", {place}" if place else "")
            return PolicyError(sentence(where, invariant, received, remedy))
        return self._document.error(key, invariant, received, remedy, of_value=of_value)

    def _resolved(self) -> dict[str, Any]:
        base = {role: _digested(settings) for role, settings in self.variants[0].items()}
        # The own mode and range count even where no role has a format: entries inherit them.
        entries = [[key, _targets(overrides)] for key, overrides in self.entries()]
        return {
            "base": base,
            "entries": [entry for entry in entries if len(entry[0]) == 2 or entry[1]],
            "exclude": sorted(self.exclude),
            "scope": self.scope,
            "calibration": self.calibration.model_dump() if self.calibrated else None,
            "fold_batch_norm": self.fold_batch_norm,
        }


def _said(key: str, value: str | None) -> str:
    return f"no {key}" if value is None else f"{key}: {value}"


def _digested(settings: RoleSettings) -> str | list[str]:
    if not settings.quantized:
        return NONE
    # What is rounded to nearest keeps the digest that it had before there was another rounding.
    rounding = [settings.rounding.value] if settings.rounded else []
    return [settings.format.value, settings.mode.value, settings.range.value, *rounding]


def _targets(overrides: Overrides) -> dict[str, str]:
    return {target: setting.value for target, setting in overrides.written()}


def read_policy(path: Path) -> Policy:
    """The policy in a YAML file; whether its names are registered, ``check_policy`` says.

    Raises ``PolicyError``, with file and line, for what is no YAML, keys there are not, values they
    do not take, and what contradicts itself; several mistakes are listed together.
    """
    document = read_yaml(path)
    try:
        policy = Policy.model_validate({"name": path.stem, **document.data})
    except ValidationError as error:
        raise policy_error(document, error, Policy) from None
    policy._document = document
    return policy


def policy_named(name: str, manager: Manager) -> Policy:
    """The policy of that registered name, or in the YAML file at that path.

    Raises ``NameNotFoundError`` for an unknown name, ``PolicyError`` as ``read_policy`` does.
    """
    return read_policy(manager.policies.get(name).path)
