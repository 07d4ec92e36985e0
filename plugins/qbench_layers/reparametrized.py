"""Quantized layers that run their float twin's own forward on quantized vectors."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from qbench_layers.base import FrozenForward, QuantLayer, tensors_of
from qbench_suite import Role


class QuantReparametrized(QuantLayer):
    """``y = Q(f(Q(x)))``, f the float twin's forward with its ``vectors`` quantized, never in place.

    Roles: ``weight`` for the vectors named, quantized once, of any layout with one long axis; all
    other parameters and buffers stay float. ``input``; and the role of the result, see each layer.
    Raises ``LayerError`` for a module of another type.
    """

    roles: ClassVar[tuple[Role, ...]] = (Role.WEIGHT, Role.INPUT)
    optional_roles: ClassVar[tuple[Role, ...]] = (Role.OUTPUT,)
    #: Parameters and buffers that are quantized, and missing in twins built without them.
    vectors: ClassVar[tuple[str, ...]] = ("weight",)
    #: The role of what the layer gives.
    result: Role = Role.OUTPUT

    def take(self, module: Any) -> None:
        """All tensors of ``module``, and its forward."""
        self.function = FrozenForward(module).function
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            (self.keep_vector if name in self.vectors else self.keep)(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that the float twin takes → what it gives."""
        x = self.quantize(Role.INPUT, "input", x)
        y = self.function(tensors_of(self), (x,))
        return self.quantize(self.result, str(self.result), y)


class QuantSimpleNorm(QuantReparametrized):
    """``Q(x) / √(var(x) + ε) · Q(γ)`` of timm's SimpleNorm: features on the last axis."""

    float_types = ("timm.layers.norm.SimpleNorm", "timm.layers.norm.SimpleNormFp32")
    features = -1


class QuantSimpleNorm2d(QuantReparametrized):
    """``QuantSimpleNorm`` over the channels of images (N, C, H, W)."""

    float_types = ("timm.layers.norm.SimpleNorm2d", "timm.layers.norm.SimpleNorm2dFp32")
    features = 1


class QuantRMSNorm2d(QuantReparametrized):
    """``Q(x) / √(mean(x²) + ε) · Q(γ)`` over the channels of images (N, C, H, W)."""

    float_types = ("timm.layers.norm.RmsNorm2d", "timm.layers.norm.RmsNorm2dFp32")
    features = 1


class QuantRMSNormAct2d(QuantReparametrized):
    """``Q(act(RMS(Q(x))))`` of timm's RmsNormAct2d, over the channels of images.

    The result is an ``act``, or an ``output`` where the activation is the identity.
    """

    float_types = ("timm.layers.norm_act.RmsNormAct2d", "timm.layers.norm_act.RmsNormAct2dFp32")
    roles = (Role.WEIGHT, Role.INPUT, Role.ACT)
    features = 1

    def take(self, module: Any) -> None:
        """As every layer, and whether there is an activation."""
        super().take(module)
        self.result = Role.OUTPUT if isinstance(module.act, nn.Identity) else Role.ACT


class QuantFrozenBatchNorm2d(QuantReparametrized):
    """``(Q(x) − μ) / √(σ² + ε) · Q(γ) + β`` of torchvision's FrozenBatchNorm2d, (N, C, H, W)."""

    float_types = ("torchvision.ops.misc.FrozenBatchNorm2d",)
    features = 1


class QuantInstanceNorm2d(QuantReparametrized):
    """``(Q(x) − μ) / √(σ² + ε) · Q(γ) + β`` over the positions of each channel of (N, C, H, W)."""

    float_types = ("torch.nn.InstanceNorm2d",)
    features = -3


class QuantGlobalResponseNorm(QuantReparametrized):
    """``Q(x) + β + Q(γ) · Q(x) · n(Q(x))`` of ConvNeXt V2 (Woo et al. 2023, arXiv:2301.00808).

    n is the norm of each channel over its positions, divided by its mean over channels. Features are on
    axis 1, or the last axis where the float twin has them there.
    """

    float_types = ("timm.layers.grn.GlobalResponseNorm",)

    def take(self, module: Any) -> None:
        """As every layer, and where the channels are."""
        super().take(module)
        self.feature_axis = module.channel_dim


class QuantAffine(QuantReparametrized):
    """``β + Q(α) · Q(x)`` of ResMLP (Touvron et al. 2021, arXiv:2105.03404): features last."""

    float_types = ("timm.models.mlp_mixer.Affine",)
    vectors = ("alpha",)
    features = -1


class QuantScale(QuantReparametrized):
    """``Q(x) · Q(scale)`` of MetaFormer (Yu et al. 2022, arXiv:2210.13452), images or tokens."""

    float_types = ("timm.models.metaformer.Scale",)
    vectors = ("scale",)

    def take(self, module: Any) -> None:
        """As every layer, and where the channels are."""
        super().take(module)
        self.feature_axis = -3 if len(module.shape) == 3 else -1


class QuantPReLU(QuantReparametrized):
    """``max(x, 0) + Q(slope) · min(x, 0)`` of Q(x), a slope for each channel or one for all."""

    float_types = ("torch.nn.PReLU", "timm.layers.activations.PReLU")
    roles = (Role.WEIGHT, Role.INPUT, Role.ACT)
    optional_roles = ()
    result = Role.ACT


class QuantStarReLU(QuantReparametrized):
    """``s · max(Q(x), 0)² + b`` with learnt numbers s and b, float; MetaFormer's, or the square alone."""

    float_types = ("timm.models.metaformer.StarReLU", "timm.models.metaformer.SquaredReLU")
    roles = (Role.INPUT, Role.ACT)
    optional_roles = ()
    vectors = ()
    result = Role.ACT
