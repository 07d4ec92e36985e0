"""Assignment: which quantizers a policy gives each site of a model, and why some stay float."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fnmatch import fnmatchcase

from qbench_suite.calibration import RoundingRule
from qbench_suite.convert.overrides import (
    NEAREST,
    Overrides,
    PatternOverrides,
    RoleSettings,
    merged,
)
from qbench_suite.convert.policy import Policy
from qbench_suite.convert.resolve import Resolver, check_policy
from qbench_suite.convert.sites import Site, Survey
from qbench_suite.errors import PolicyError
from qbench_suite.layers import LinearMap, QuantFunction, QuantModule, Role
from qbench_suite.linears import LinearEntry
from qbench_suite.manager import Manager
from qbench_suite.scaling import Quantizer
from qbench_suite.yaml_lines import Key

#: What makes a pattern of a name.
_WILDCARDS = frozenset("*?[")
_LISTED = "`qbench policy show` lists them"
#: Why a rounding rule cannot serve a site.
_NO_MAP = "what it reads is not multiplied with one weight"


@dataclass(frozen=True)
class Assignment:
    """What becomes of a site."""

    site: Site
    #: A quantizer for each role to be quantized; empty where the site stays float.
    quantizers: Mapping[Role, Quantizer]
    #: Why it stays float; empty where it does not.
    reason: str
    #: The rule that its weight is rounded by; None for nearest.
    rounding: RoundingRule | None = None
    #: Why its weight is rounded to nearest, though the policy names another rule; else empty.
    unrounded: str = ""
    #: What is to multiply with its weight, if it takes it; None for emulation.
    kernel: LinearEntry | None = None
    #: Where the policy names that.
    kernel_key: Key = ()


def assign(
    policy: Policy, survey: Survey, manager: Manager, *, seed: int = 0
) -> tuple[Assignment, ...]:
    """What ``policy`` gives each site of a model, in the order of the survey.

    ``seed``: of stochastic rounding. Raises ``PolicyError``, with file and line where the policy has
    them, for names that are not registered, patterns that match nothing, entries whose sites are all
    excluded, settings of a role that no site matched has, and a format, mode and range that do not go
    together.
    """
    check_policy(policy, manager)
    _check_patterns(policy, survey, manager)
    resolver = Resolver(policy, manager, seed=seed)
    naming = {key for key, _ in policy.entries() if _names(key, survey)}
    return tuple(_assignment(policy, survey, site, resolver, naming) for site in survey.sites)


def roles_of(site: Site) -> tuple[Role, ...]:
    """The roles that the twin of a site can quantize; none without a twin."""
    return () if site.twin is None else (*site.twin.roles, *site.twin.optional_roles)


def _assignment(
    policy: Policy, survey: Survey, site: Site, resolver: Resolver, naming: AbstractSet[Key]
) -> Assignment:
    if site.twin is None:
        return Assignment(site, {}, site.reason)
    if pattern := _exclusion(policy, site):
        return Assignment(site, {}, f"excluded by the policy: {pattern}")
    entries = [(key, o) for key, o in policy.entries() if _concerns(key, site, survey)]
    settings = merged(entries)
    named = any(key in naming for key, _ in entries)
    roles = _roles_in_scope(policy, site, acts=settings[Role.ACT].quantized, named=named)
    if not roles:
        return Assignment(site, {}, f"outside the policy's scope: {policy.scope}")
    made = {role: resolver.quantizer(role, settings[role]) for role in roles}
    quantizers = {role: q for role, q in made.items() if q is not None}
    reason = "" if quantizers else _why_float(settings, roles)
    if Role.WEIGHT not in quantizers:
        return Assignment(site, quantizers, reason)
    weight = settings[Role.WEIGHT]
    rule, unrounded = resolver.rounding(Role.WEIGHT, weight), ""
    if rule is not None and not issubclass(site.twin, LinearMap):
        rule, unrounded = None, f"nearest: {_NO_MAP}"
    kernel, key = resolver.kernel(weight), weight.kernel.key
    return Assignment(site, quantizers, reason, rule, unrounded, kernel, key)


def _exclusion(policy: Policy, site: Site) -> str:
    """The pattern that excludes a site, or nothing."""
    return next((p for p in policy.exclude if fnmatchcase(site.name, p)), "")


def _names(key: Key, survey: Survey) -> bool:
    """Whether the entry at ``key`` brings what it is about into scope.

    A name does; a pattern does where all that it matches lies outside. One such as ``blocks.0.*`` is
    about the layers in scope, not about the norms between them.
    """
    if not key or key[0] not in ("types", "layers"):
        return False
    if not _WILDCARDS & set(str(key[1])):
        return True
    return not any(
        site.adds and site.twin and _concerns(key, site, survey) for site in survey.sites
    )


def _concerns(key: Key, site: Site, survey: Survey) -> bool:
    """Whether the entry at ``key`` is about ``site``."""
    match key:
        case ("types", pattern):
            return fnmatchcase(site.type, str(pattern))
        case ("layers", pattern):
            return fnmatchcase(site.name, str(pattern))
        case ("first_layer",):
            return site.adds and site.name in (survey.first, *survey.stem)
        case ("last_layer",):
            return site.adds and site.name in (survey.last, *survey.classifier)
    return True


def _roles_in_scope(policy: Policy, site: Site, *, acts: bool, named: bool) -> tuple[Role, ...]:
    """The roles of a site that the policy reaches; ``acts``: whether activations have a format."""
    roles = roles_of(site)
    if policy.scope == "all" or site.adds or named:
        return roles
    if acts and Role.ACT in roles:
        return (Role.ACT,)
    return ()


def _why_float(settings: Mapping[Role, RoleSettings], roles: Iterable[Role]) -> str:
    """Why a site in scope has no quantizer: an entry says so, or the policy gives its roles none."""
    origins = {settings[role].format.key[:2]: None for role in roles}
    for key in origins:
        if key[:1] in (("types",), ("layers",)):
            return f"left float by the policy: {key[0]}: {key[1]}"
        if key[:1] in (("first_layer",), ("last_layer",)):
            return f"left float by the policy: {key[0]}"
    return f"the policy has no format for its roles: {', '.join(dict.fromkeys(roles))}"


def _check_patterns(policy: Policy, survey: Survey, manager: Manager) -> None:
    """Raise where an entry or an exclusion is about nothing in the model."""
    names = [site.name for site in survey.sites]
    for index, pattern in enumerate(policy.exclude):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise _unmatched(policy, ("exclude", index), _near(pattern, names) or _LISTED)
    for key, overrides in policy.entries():
        sites = [site for site in survey.sites if _concerns(key, site, survey)]
        if sites and key:
            _check_exclusions(policy, key, overrides, sites)
            _check_roles(policy, key, overrides, sites)
        elif isinstance(overrides, PatternOverrides):
            _check_optional(policy, key, overrides, survey, manager)


def _check_optional(
    policy: Policy, key: Key, overrides: PatternOverrides, survey: Survey, manager: Manager
) -> None:
    """Raise for a pattern that matches nothing, unless it may: a type needs to be one of some model."""
    pattern = str(key[1])
    if key[0] == "layers":
        known, remedy = True, _near(pattern, [site.name for site in survey.sites])
    else:
        known = any(fnmatchcase(type, pattern) for type in _registered_types(manager))
        remedy = _other_case(pattern, survey) or _inside(pattern, survey, manager)
        if not (known or remedy):  # what another model may have is no slip of the pen
            remedy = _near(pattern, [site.type for site in survey.sites])
    if not (overrides.optional and known):
        may = "; optional: true in the entry lets it match nothing" if known else ""
        raise _unmatched(policy, key, remedy or f"{_LISTED}{may}")


def _check_exclusions(
    policy: Policy, key: Key, overrides: Overrides, sites: Iterable[Site]
) -> None:
    """Raise where an entry sets something, and every site it is about is excluded."""
    replaced = [site for site in sites if site.twin is not None]
    patterns = dict.fromkeys(_exclusion(policy, site) for site in replaced)
    if getattr(overrides, "optional", False) or overrides.leaves_float or "" in patterns:
        return
    if patterns and (len(key) == 2 or overrides.model_fields_set):
        raise policy.error(
            key,
            "a site is excluded or has settings, not both",
            f"{': '.join(map(str, key))} for {_some(replaced)}, excluded by {', '.join(patterns)}",
            "drop one of the two",
            of_value=False,
        )


def _some(sites: list[Site]) -> str:
    first = f"{sites[0].name} ({sites[0].type})"
    return first + (f" and {len(sites) - 1} more" if len(sites) > 1 else "")


def _check_roles(policy: Policy, key: Key, overrides: Overrides, sites: list[Site]) -> None:
    """Raise where an entry sets a role that none of the sites it is about has."""
    there = dict.fromkeys(role for site in sites for role in roles_of(site))
    for role in Role:
        name = overrides.names_role(role)
        if name and role not in there:
            raise policy.error(
                (*key, name),
                "an entry sets roles that a site it matches has",
                f"{name} for {_some(sites)}"
                f", with roles {', '.join(there) or 'none: no layer replaces it'}",
                f"drop {name}, or match other sites",
            )
    rounding = overrides.weight_rounding
    if rounding not in (None, NEAREST) and not any(_is_map(site) for site in sites):
        raise policy.error(
            (*key, "weight_rounding"),
            "weights that a layer multiplies what it reads with can be rounded by a rule, as those of "
            "linear layers and convolutions",
            f"{rounding} for {_some(sites)}",
            "drop weight_rounding, or match other sites",
        )


def _is_map(site: Site) -> bool:
    return site.twin is not None and issubclass(site.twin, LinearMap)


def _registered_types(manager: Manager) -> Iterator[str]:
    """Every type of site that some registered layer or function is the twin of."""
    for entry in manager.layers:
        yield from (dotted.rpartition(".")[2] for dotted in entry.layer.float_types)
    yield from (entry.function.kind for entry in manager.functions)


def _other_case(pattern: str, survey: Survey) -> str:
    """The remedy for a type that is written in capitals, or is not."""
    types = dict.fromkeys(site.type for site in survey.sites)
    found = [type for type in types if fnmatchcase(type.lower(), pattern.lower())]
    return f"did you mean {' or '.join(found)}?" if found else ""


def _inside(pattern: str, survey: Survey, manager: Manager) -> str:
    """The remedy for a function that is no site of its own, as some layer calls it within itself."""
    kinds = {e.function.kind for e in manager.functions if fnmatchcase(e.function.kind, pattern)}
    for site in survey.sites:
        for kind in sorted(kinds & _names_used(site)):
            return f"{kind} is computed within {site.type} here: write the entry for that type"
    return ""


def _names_used(site: Site) -> set[str]:
    """Names of the functions and attributes that the code of a site's twin uses."""
    classes = () if site.twin is None else site.twin.__mro__
    own = [c for c in classes if issubclass(c, QuantModule | QuantFunction)]
    methods = [m for c in own for m in vars(c).values() if inspect.isfunction(m)]
    return {name for method in methods for name in method.__code__.co_names}


def _near(pattern: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(pattern, sorted(set(known)), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else ""


def _unmatched(policy: Policy, key: Key, remedy: str) -> PolicyError:
    pattern = policy.exclude[int(key[1])] if key[0] == "exclude" else str(key[1])
    what = "a type of site" if key[0] == "types" else "the name of a site"
    return policy.error(
        key,
        f"a pattern matches {what} of the model",
        f"{pattern!r}, which matches none",
        remedy,
        of_value=False,
    )
