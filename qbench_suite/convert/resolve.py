"""Resolving: from the names in a policy to quantizers, and whether the names go together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from qbench_suite.calibration import RoundingRule
from qbench_suite.convert.overrides import ABSMAX, RoleSettings, Setting
from qbench_suite.convert.policy import ACTIVATIONS, Policy
from qbench_suite.errors import PolicyError, QBenchError
from qbench_suite.formats import IntFormat
from qbench_suite.layers.quantizing import Role
from qbench_suite.linears import LinearEntry
from qbench_suite.manager import Manager
from qbench_suite.scaling import Axes, Mode, Quantizer

T = TypeVar("T")

#: Two inputs of one layer that differ in batch and positions, as tokens and as images.
_SHAPES = (((2, 50, 512), (4, 90, 512)), ((2, 512, 8, 8), (4, 512, 9, 9)))


class Resolver:
    """Makes the quantizers of one policy; each by name once."""

    def __init__(self, policy: Policy, manager: Manager, *, seed: int = 0) -> None:
        self.policy, self.manager, self.seed = policy, manager, seed

    def quantizer(self, role: Role, settings: RoleSettings) -> Quantizer | None:
        """What ``settings`` describe; None where they leave the role float.

        Raises ``PolicyError``, with the line, for names that are not registered and for a format,
        mode and range that do not go together or do not suit the role.
        """
        if not settings.quantized:
            return None
        registered = self.manager
        format = self._found(settings.format, registered.formats.get)
        mode = self._found(settings.mode, registered.modes.get)
        rule = None
        if settings.range.value != ABSMAX:
            rule = self._found(settings.range, registered.range_rules.get)
        if misfit := mode.misfit(format):
            raise self._error(
                settings.format if settings.format.key else settings.mode,
                "a format runs in the modes it fits",
                f"{format.name} in mode {mode.name} for {role}: {misfit}",
                "choose another mode or format",
            )
        static = self.policy.scales == "static" and role in ACTIVATIONS
        if static and depends_on_position(mode):
            raise self._error(
                settings.mode if settings.mode.key else settings.format,
                "static scales are the same for every input",
                f"mode {mode.name} for {role}, which has a scale for each position",
                f"write scales: dynamic, or another {role}_mode, for instance tensor",
            )
        if rule is not None and rule.static_only and not static:
            why = "weights, which are seen once" if role not in ACTIVATIONS else "dynamic scales"
            raise self._error(
                settings.range,
                "a range that needs many batches goes with static scales of activations",
                f"{rule.name} for {role}, of {why}",
                f"write {role}_range: {ABSMAX}"
                + ("" if role not in ACTIVATIONS else ", or scales: static"),
            )
        return Quantizer(format, mode, self.seed, range_rule=rule)

    def rounding(self, role: Role, settings: RoleSettings) -> RoundingRule | None:
        """The rule that ``settings`` round weights by; None for nearest, and where they stay float.

        Raises ``PolicyError``, with the line, for a rule that is not registered, and for a format that
        is not of integers.
        """
        if role is not Role.WEIGHT or not settings.rounded:
            return None
        rule = self._found(settings.rounding, self.manager.rounding_rules.get)
        format = self._found(settings.format, self.manager.formats.get)
        if not isinstance(format, IntFormat):
            raise self._error(
                settings.rounding,
                "a weight_rounding other than nearest chooses between integers",
                f"{rule.name} for weights in {format.name}, which is no integer format",
                "write an integer weight_format, for instance int4, or weight_rounding: nearest",
            )
        return rule

    def kernel(self, settings: RoleSettings) -> LinearEntry | None:
        """What multiplies with weights of ``settings``; None for emulation, and where they stay float.

        Raises ``PolicyError``, with the line, for a linear that is not registered, and for one that is
        not made out of converted layers.
        """
        if not settings.computed:
            return None
        linears = self.manager.linears
        entry = self._found(settings.kernel, linears.get)
        if entry.adopt is None:
            able = [name for name in linears.names() if linears.get(name).adopt]
            raise self._error(
                settings.kernel,
                "a kernel takes over the codes of converted layers",
                f"{entry.name}, which quantizes float layers by itself",
                f"choose among {', '.join(able)}" if able else "drop kernel",
            )
        return entry

    def _found(self, setting: Setting, get: Callable[[str], T]) -> T:
        try:
            return get(setting.value)
        except QBenchError as error:
            invariant, _, rest = str(error).partition("; got ")
            remedy = rest.partition(". ")[2]
            raise self._error(
                setting, invariant[:1].lower() + invariant[1:], repr(setting.value), remedy
            ) from None

    def _error(self, setting: Setting, *words: str) -> PolicyError:
        return self.policy.error(setting.key, *words)


def check_policy(policy: Policy, manager: Manager) -> None:
    """Raise ``PolicyError`` for names that are not registered, and for what does not go together.

    Whether its patterns match anything, only a model can say: ``assign``.
    """
    resolver = Resolver(policy, manager)
    for variant in policy.variants:
        for role, settings in variant.items():
            resolver.quantizer(role, settings)
            resolver.rounding(role, settings)
            resolver.kernel(settings)


@functools.cache
def depends_on_position(mode: Mode) -> bool:
    """Whether the number of scales changes with batch size or positions, so that none can be static."""
    for shapes in _SHAPES:
        first, second = (_scale_shape(mode, shape) for shape in shapes)
        if first != second:
            return True
    return False


def _scale_shape(mode: Mode, shape: tuple[int, ...]) -> tuple[int, ...]:
    group = mode.granularity.group_shape(shape, Axes.features(len(shape)))
    return tuple(-(-size // span) for size, span in zip(shape, group, strict=True))
