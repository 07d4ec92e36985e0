"""Sites: the places of a model where something is computed, each of which a policy decides on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbench_suite.layers import QuantFunction, QuantModule

if TYPE_CHECKING:
    from qbench_suite.convert.functions import FunctionTable

#: What computes at a site.
Twin = type[QuantModule] | type[QuantFunction]


@dataclass(frozen=True)
class Site:
    """A module, or a call of a function, that a forward of the model reaches."""

    #: Dotted name of a module; ``<module>:<kind>`` of a call, ``<module>:<kind>.2`` of the second
    #: call of that kind in one run of that module, ``:<kind>`` in the model's own forward.
    name: str
    kind: Literal["module", "function"]
    #: Class of the module, or kind of the call: ``Conv2d``, ``add``.
    type: str
    #: What can replace it; None where it has to stay float.
    twin: Twin | None
    #: Why there is no twin; empty where there is one.
    reason: str
    #: Position in the order of execution, from 0; sites that were not reached come last.
    order: int
    #: Multiply-adds for one image, those of sites within it not counted.
    multiply_adds: int
    #: Elements of the parameters that are its own.
    weight_elements: int
    #: Axis of the features in its inputs; None for 1 of images and the last of everything else.
    feature_axis: int | None = None

    @property
    def adds(self) -> bool:
        """Whether it multiplies and adds, as convolutions, products of matrices and attention do."""
        return self.multiply_adds > 0


@dataclass(frozen=True)
class Survey:
    """The sites of a model, as one forward reached them."""

    #: In order of execution; those that were not reached come last.
    sites: tuple[Site, ...]
    #: Name of the first site that multiplies and adds: the stem. Empty where none does.
    first: str
    #: Name of the last site that does: the classifier. Empty where none does.
    last: str
    #: ``resnet``, ``vit`` or ``generic``, by structure.
    family: str
    #: Multiply-adds of the whole model for one image.
    multiply_adds: int
    #: Every site that reads the images: ``first``, and others where a model has several stems.
    stem: tuple[str, ...] = ()
    #: Every site that gives logits: ``last``, and the other head of a distilled model.
    classifier: tuple[str, ...] = ()
    #: (layer, batch norm) where the norm alone reads what the layer gives.
    foldable: tuple[tuple[str, str], ...] = ()
    #: The functions that have a twin.
    functions: FunctionTable | None = None

    def site(self, name: str) -> Site:
        """The site of that name; raises ``KeyError`` where there is none."""
        for site in self.sites:
            if site.name == name:
                return site
        raise KeyError(name)
