"""Manager: finds plugins, asks each for its entries, and remembers who provided what.

Plugins come from the entry-point group ``qbench``, from single files, from folders of a checkout that
is not installed, and as modules (any ``conftest.py``). Each is asked by itself, so that its entries
get an owner and its mistakes stay its own: entries of a plugin whose hook raises are dropped whole,
and ``problems`` says why.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import pluggy

from qbench_suite import hookspecs
from qbench_suite.datasets import DatasetEntry
from qbench_suite.errors import DuplicateNameError, PluginError
from qbench_suite.loading import Plugin, Problem, functions_of, hooks_of, import_file, problem_of
from qbench_suite.policies import PolicyEntry
from qbench_suite.registry import Family, Owner, Registry

if TYPE_CHECKING:
    from qbench_suite.calibration.rounding import RoundingRule
    from qbench_suite.formats import Format
    from qbench_suite.integers import IntegerMethod
    from qbench_suite.layers import QuantFunction, QuantModule
    from qbench_suite.linears import LinearEntry
    from qbench_suite.models import ModelEntry
    from qbench_suite.norms import NormKernel
    from qbench_suite.scaling import Mode, RangeRule

ENTRY_POINT_GROUP = "qbench"
_NAME = re.compile(r"[A-Za-z0-9_.+:/]+")
_DATASET_NAME = re.compile(r"[A-Za-z0-9_.+:/-]+")


class Manager:
    """The registries, filled by plugins.

    ``disabled``: modules, entry-point names or distributions that are not to be loaded.
    """

    def __init__(self, *, disabled: Iterable[str] = ()) -> None:
        self.formats: Registry[Format] = Registry("format")
        self.modes: Registry[Mode] = Registry("mode")
        self.layers: Registry[_Layer] = Registry("layer")
        self.functions: Registry[_Function] = Registry("function")
        self.range_rules: Registry[RangeRule] = Registry("range rule")
        self.rounding_rules: Registry[RoundingRule] = Registry("rounding rule")
        self.linears: Registry[LinearEntry] = Registry("linear")
        self.integer_methods: Registry[IntegerMethod] = Registry("integer method")
        self.norm_kernels: Registry[NormKernel] = Registry("norm kernel")
        self.policies: Registry[PolicyEntry] = Registry("policy")
        self.models: Registry[ModelEntry] = Registry("model")
        self.datasets: Registry[DatasetEntry] = Registry("dataset")
        self.plugins: list[Plugin] = []
        self.problems: list[Problem] = []
        self.disabled = frozenset(disabled)
        self._plugins = pluggy.PluginManager(hookspecs.PROJECT)
        self._plugins.add_hookspecs(hookspecs)
        self._registries: dict[str, Registry[Any]] = {
            f"qbench_register_{name}": registry
            for name, registry in vars(self).items()
            if isinstance(registry, Registry)
        }
        core = Owner("qbench_suite", "qbench-suite")
        pattern = r"(?P<base>.+)\+(?P<suffix>[a-z]+)"
        variants = Family("<format>+<variant>", pattern, self._variant, self._variant_owner)
        self.formats.register(variants, core)
        files = Family(
            "<path>.yaml",
            r".+\.ya?ml",
            lambda match: PolicyEntry(name=match[0], path=Path(match[0])),
        )
        self.policies.register(files, core)
        #: Modules that were loaded, or failed to.
        self._seen: set[str] = set()

    def call(self, hook: str, **arguments: Any) -> None:
        """Call a hook that is not a registration; a plugin that raises lands in ``problems``."""
        for plugin in self.plugins:
            if hook in plugin.hooks:
                try:
                    self._caller(hook, plugin.module)(**arguments)
                except Exception as error:
                    self.problems.append(problem_of(plugin.owner, error))

    def load_entry_points(self) -> None:
        """Load every installed distribution's plugins of group ``qbench``, sorted by module."""
        found = [
            (Owner(point.value, distribution.name, distribution.version), point)
            for distribution in metadata.distributions()
            for point in distribution.entry_points
            if point.group == ENTRY_POINT_GROUP
        ]
        for owner, point in sorted(found, key=lambda pair: pair[0].module):
            if not {point.name, owner.distribution} & self.disabled:
                self._load(owner, point.load)

    def load_folder(self, folder: Path) -> None:
        """Load each child of ``folder`` that is a package or a module, unless it is loaded already."""
        for path in sorted(folder.iterdir()):
            package = path / "__init__.py"
            name = path.stem
            if name.startswith(("_", ".")) or not (package.exists() or path.suffix == ".py"):
                continue
            if str(folder) not in sys.path:
                sys.path.append(str(folder))
            self._load(Owner(name), functools.partial(importlib.import_module, name))

    def load_file(self, path: Path | str) -> None:
        """Load the plugin in one Python file."""
        self._load(Owner(str(path)), lambda: import_file(Path(path)))

    def register(self, plugin: ModuleType | object, owner: Owner | None = None) -> None:
        """Take ``plugin`` (a module, or any object with hooks) in; what fails lands in ``problems``."""
        owner = owner or Owner(getattr(plugin, "__name__", type(plugin).__name__))
        self._load(owner, lambda: plugin)

    def check(self, *, strict: bool = False) -> None:
        """Raise ``PluginError`` for problems that make a run meaningless; for any, if ``strict``."""
        bad = [problem for problem in self.problems if problem.fatal or strict]
        if bad:
            lines = [f"{problem.plugin}: {problem.reason} {problem.remedy}" for problem in bad]
            raise PluginError("Plugins must load before cases run.\n" + "\n".join(lines))

    def has_hooks(self, plugin: object) -> bool:
        """Whether ``plugin`` is a module with a function marked as, or named like, a hook."""
        return isinstance(plugin, ModuleType) and bool(functions_of(plugin))

    def _load(self, owner: Owner, load: Callable[[], object]) -> None:
        if owner.module in self.disabled | self._seen:
            return
        self._seen.add(owner.module)
        try:
            plugin = load()
            if self._plugins.is_registered(plugin):
                return
            hooks = hooks_of(plugin)
            self._take(plugin, owner)
        except (Exception, SystemExit) as error:
            self.problems.append(problem_of(owner, error))
        else:
            self.plugins.append(Plugin(owner, hooks, plugin))

    def _take(self, plugin: object, owner: Owner) -> None:
        """Register ``plugin`` and its entries, all of them or none."""
        try:
            self._plugins.register(plugin, name=f"{owner.module}-{id(plugin)}")
            entries = self._entries(plugin)
            names = [(registry.kind, entry.name) for registry, entry in entries]
            for (registry, entry), name in zip(entries, names, strict=True):
                registry.check_free(entry, owner)
                if names.count(name) > 1:
                    raise DuplicateNameError(
                        f"A {registry.kind} name is registered once; {owner} registers {name[1]!r} "
                        f"{names.count(name)} times. Rename one."
                    )
        except BaseException:
            if self._plugins.is_registered(plugin):
                self._plugins.unregister(plugin)
            raise
        for registry, entry in entries:
            registry.register(entry, owner)

    def _entries(self, plugin: object) -> list[tuple[Registry[Any], Any]]:
        entries: list[tuple[Registry[Any], Any]] = []
        for hook, registry in self._registries.items():

            def register(entry: Any, registry: Registry[Any] = registry) -> None:
                entries.append((registry, _named(entry)))

            self._caller(hook, plugin)(register=register)
        return entries

    def _caller(self, hook: str, plugin: object) -> pluggy.HookCaller:
        others = [other for other in self._plugins.get_plugins() if other is not plugin]
        return self._plugins.subset_hook_caller(hook, remove_plugins=others)

    def _variant(self, match: Any) -> Format:
        return self.formats.get(match["base"]).variant(match["suffix"])

    def _variant_owner(self, match: Any) -> Owner:
        return self.formats.owner(match["base"])


@dataclass(frozen=True)
class _Layer:
    """A quantized layer class in its registry, under the name of the class."""

    name: str
    layer: type[QuantModule]


@dataclass(frozen=True)
class _Function:
    """A quantized function class in its registry, under the name of the class."""

    name: str
    function: type[QuantFunction]


def _named(entry: Any) -> Any:
    """``entry`` if it can be registered; classes are wrapped, as their name is not theirs to give."""
    if inspect.isclass(entry):
        if hasattr(entry, "functions"):
            return _Function(entry.__name__, cast(Any, entry))
        if not hasattr(entry, "float_types"):
            raise PluginError(
                f"A class is registered as a layer, which names its float_types; {entry!r} names none. "
                "Derive it from QuantModule."
            )
        return _Layer(entry.__name__, cast(Any, entry))
    name = getattr(entry, "name", None)
    # A hyphen separates the axes of a case id, of which a dataset is none.
    plain = _NAME if not isinstance(entry, DatasetEntry) else _DATASET_NAME
    if not isinstance(name, str) or not (isinstance(entry, Family) or plain.fullmatch(name)):
        raise PluginError(
            f"register() takes an entry whose name is made of letters, digits and _ . + : /; got "
            f"{entry!r}. Pass a Format, Mode, ModelEntry, DatasetEntry, Family or QuantModule class."
        )
    return entry


def default_manager(*, disabled: Iterable[str] = (), files: Iterable[Path | str] = ()) -> Manager:
    """A manager with the plugins installed, those of the checkout around it, and ``files``.

    The suite's own plugins are loaded by folder where the package runs from a checkout, so that a
    tree that is not installed (``PYTHONPATH=.:plugins``) works without entry points.
    """
    manager = Manager(disabled=disabled)
    manager.load_entry_points()
    checkout = Path(__file__).parent.parent
    # Beside an installed package a folder of that name would be somebody else's.
    if (checkout / "pyproject.toml").is_file():
        manager.load_folder(checkout / "plugins")
    for path in files:
        manager.load_file(path)
    return manager
