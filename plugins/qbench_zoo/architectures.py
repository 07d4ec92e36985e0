"""The zoo's models as data: which timm architecture each one is, and how it was shrunk.

Importing this module loads neither torch nor timm, so that listing the models stays cheap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from qbench_suite import ModelError

if TYPE_CHECKING:
    from torch import nn

#: (channels, height, width) of one digit.
INPUT_SIZE = (1, 32, 32)
#: Number of digits.
NUM_CLASSES = 10
#: Mean of the training pixels, in 0…1.
MEAN = 0.3055
#: Standard deviation of the training pixels, in 0…1.
STD = 0.3233


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A timm architecture, shrunk so that its float32 weights stay below one megabyte."""

    #: Name in the suite.
    name: str
    #: Name in ``timm.list_models()``.
    timm_name: str
    #: Arguments of ``timm.create_model`` beyond the channels and the classes.
    kwargs: Mapping[str, Any]
    #: One line for people.
    description: str

    def build(self) -> nn.Module:
        """Return a new untrained module in train mode, drawn from torch's global generator.

        It takes normalised digits of shape (batch, 1, 32, 32) and returns logits (batch, 10).
        """
        import timm

        return timm.create_model(
            self.timm_name,
            pretrained=False,
            in_chans=INPUT_SIZE[0],
            num_classes=NUM_CLASSES,
            **self.kwargs,
        )


def _by_name(*architectures: Architecture) -> Mapping[str, Architecture]:
    return MappingProxyType({each.name: each for each in architectures})


#: Every model of the zoo by its name in the suite, sorted.
ARCHITECTURES: Mapping[str, Architecture] = _by_name(
    Architecture(
        name="convnext",
        timm_name="test_convnext",
        # timm starts LayerScale at 1e-6, made for hundreds of epochs: within a short training the
        # blocks would stay all but switched off, and quantizing them would cost nothing. Narrow
        # stages for the same reason: wide ones average the noise of quantization away.
        kwargs={"patch_size": 2, "ls_init_value": 1.0, "dims": (16, 24, 32, 40)},
        description="ConvNeXt: depthwise 7x7 Conv2d, LayerNorm2d, Linear MLP, layer scale",
    ),
    Architecture(
        name="efficientnet",
        timm_name="test_efficientnet",
        kwargs={},
        description="EfficientNet: depthwise Conv2d, BatchNormAct2d, SqueezeExcite, SiLU",
    ),
    Architecture(
        name="nfnet",
        timm_name="test_nfnet",
        kwargs={},
        description="NFNet: ScaledStdConv2d without any normalization, squeeze-excite, SiLU",
    ),
    Architecture(
        name="resnet",
        timm_name="test_resnet",
        kwargs={"channels": (24, 32, 32, 64)},
        description="ResNet: Conv2d, BatchNorm2d, ReLU, basic blocks and one bottleneck",
    ),
    Architecture(
        name="vit",
        timm_name="test_vit",
        kwargs={"img_size": 32, "patch_size": 4, "depth": 4, "init_values": 0.1},
        description="ViT: 64 tokens and a class token, attention, LayerNorm, GELU, LayerScale",
    ),
)


def architecture(name: str) -> Architecture:
    """Return the architecture called ``name``.

    Raises:
        ModelError: the zoo holds no such model; the message lists those it holds.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise ModelError(
            f"a zoo model must be one of {', '.join(ARCHITECTURES)}; got {name!r}; "
            "`qbench list models` shows the models of every plugin"
        ) from None
