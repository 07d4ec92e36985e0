"""Adapters: what a family of models is made of, told by structure and not by the names of classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qbench_suite.convert.trace import Reached, Trace


class Adapter:
    """A model of any kind: stem and classifier follow from the order of execution."""

    family = "generic"

    def fits(self, trace: Trace) -> bool:
        """Whether the model is of this family."""
        return True

    def stem(self, trace: Trace) -> tuple[str, ...]:
        """The sites that read the images; empty where nothing multiplies and adds.

        The first, and those right after it that read as many channels: some models have two stems.
        """
        sites = products(trace)
        channels = trace.images[1:2]
        return _leading(sites, [site.read[1:2] == channels for site in sites])

    def classifier(self, trace: Trace) -> tuple[str, ...]:
        """The sites that give the logits; empty where nothing multiplies and adds.

        The last, and those right before it that give as many features: distilled models have a head
        for labels and one for the teacher.
        """
        sites = products(trace)[::-1]
        logits = trace.output[-1:]
        return _leading(sites, [site.gave[-1:] == logits for site in sites])[::-1]


class ResNet(Adapter):
    """Convolutions on images with residual sums, a single classifier, and no attention."""

    family = "resnet"

    def fits(self, trace: Trace) -> bool:
        """Whether most of the work is convolution, with a stack of residual sums between."""
        sites = list(trace.reached.values())
        images = [site for site in products(trace) if len(site.gave) == 4]
        return (
            len(residual_sums(sites)) >= 2
            and _multiply_adds(images) > _multiply_adds(sites) / 2
            and not attends(trace)
        )

    def classifier(self, trace: Trace) -> tuple[str, ...]:
        """The last site alone: what comes before it is an image still."""
        return super().classifier(trace)[-1:]


class VisionTransformer(Adapter):
    """Patches of an image, made tokens by one convolution or linear layer, that attend to each other."""

    family = "vit"

    def fits(self, trace: Trace) -> bool:
        """Whether tokens (N, tokens, features) do most of the work, and attend to each other."""
        sites = list(trace.reached.values())
        tokens = [site for site in products(trace) if len(site.read) == 3]
        return _multiply_adds(tokens) > _multiply_adds(sites) / 2 and attends(trace)


#: The first that fits is it.
ADAPTERS: tuple[Adapter, ...] = (VisionTransformer(), ResNet(), Adapter())


def adapter_of(trace: Trace) -> Adapter:
    """The adapter of the model that was traced."""
    return next(adapter for adapter in ADAPTERS if adapter.fits(trace))


def products(trace: Trace) -> list[Reached]:
    """The sites that multiply and add, in order of execution."""
    return [site for site in trace.reached.values() if site.multiply_adds]


def attends(trace: Trace) -> bool:
    """Whether some site multiplies tensors that are both made of the images: attention does.

    A module does where it multiplies and adds more than all its parameters can for its tokens.
    """
    return any(
        site.multiply_adds > site.weight_elements * _positions(site) for site in products(trace)
    )


def residual_sums(sites: Iterable[Reached]) -> list[Reached]:
    """Sums of two feature maps."""
    return [site for site in sites if site.type == "add" and len(site.read) >= 3]


def _positions(site: Reached) -> int:
    """At how many positions of how many images the site can use each of its parameters."""
    shapes = [shape for shape in (site.read, site.gave) if shape]
    counts = []
    for shape in shapes:
        count = 1
        for size in (shape[:1] + shape[2:]) if len(shape) == 4 else shape[:-1]:
            count *= size
        counts.append(count)
    return max(counts, default=0)


def _multiply_adds(sites: Iterable[Reached]) -> int:
    return sum(site.multiply_adds for site in sites)


def _leading(sites: Sequence[Reached], fits: Sequence[bool]) -> tuple[str, ...]:
    """Names of the first site and of those right after it, all of which fit."""
    count = next((i for i, fit in enumerate(fits) if not fit), len(fits))
    return tuple(site.name for site in sites[: max(count, 1)])
