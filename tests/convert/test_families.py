"""Models of many families convert, run, stay near their originals, and are covered."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from qbench_suite import Quantizer, default_manager
from qbench_suite.convert.assign import Assignment
from qbench_suite.convert.coverage import measure_coverage
from qbench_suite.convert.sites import Survey
from qbench_suite.convert.survey import survey
from qbench_suite.convert.swap import ConvertedModel, convert

#: Model → edge of the image; a model that takes ``img_size`` is built for it.
TIMM = {
    "resnet18": 64,
    "resnext26ts": 64,
    "seresnet18": 64,
    "regnetx_002": 64,
    "mobilenetv3_small_050": 64,
    "efficientnet_lite0": 64,
    "mnasnet_small": 64,
    "convnext_atto": 64,
    "convnextv2_atto": 64,
    "nfnet_l0": 32,
    "repvgg_a0": 32,
    "hrnet_w18_small": 32,
    "dla46_c": 64,
    "ghostnet_050": 64,
    "vit_tiny_patch16_224": 64,
    "deit_tiny_distilled_patch16_224": 64,
    "deit3_small_patch16_224": 32,
    "swin_tiny_patch4_window7_224": 56,
    "swinv2_cr_tiny_ns_224": 64,
    "beit_base_patch16_224": 32,
    "cait_xxs24_224": 32,
    "mixer_s32_224": 64,
    "resmlp_12_224": 32,
    "poolformer_s12": 32,
    "xcit_nano_12_p16_224": 64,
    "pvt_v2_b0": 64,
    "maxxvitv2_nano_rw_256": 64,
    "levit_128s": 224,
    "efficientformer_l1": 224,
    "edgenext_xx_small": 64,
    "mobilevit_xxs": 64,
    "eva02_tiny_patch14_224": 56,
    "crossvit_tiny_240": 240,
    "twins_pcpvt_small": 64,
    "volo_d1_224": 64,
    "focalnet_tiny_srf": 32,
    "fastvit_t8": 64,
    "hiera_tiny_224": 64,
}
TORCHVISION = {
    "resnet18": 64,
    "squeezenet1_1": 64,
    "densenet121": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 64,
    "efficientnet_b0": 32,
    "regnet_y_400mf": 32,
    "shufflenet_v2_x0_5": 64,
    "mnasnet0_5": 64,
    "convnext_tiny": 32,
    "vit_b_32": 64,
    "swin_t": 32,
    "swin_v2_t": 32,
    "googlenet": 64,
    "inception_v3": 80,
}
#: Fewer blocks than models of these families have, as all are alike.
SHALLOW = {
    "vit_tiny_patch16_224": {"depth": 2},
    "deit_tiny_distilled_patch16_224": {"depth": 2},
    "deit3_small_patch16_224": {"depth": 2},
    "beit_base_patch16_224": {"depth": 2},
    "cait_xxs24_224": {"depth": 2},
    "eva02_tiny_patch14_224": {"depth": 2},
    "xcit_nano_12_p16_224": {"depth": 2},
}
#: Largest error in parts of the logits, where it is not a half: norms after every block magnify the
#: rounding of what small random weights give.
NEAR = {"torchvision:swin_v2_t": 1.0}
MODELS = [*(f"timm:{name}" for name in TIMM), *(f"torchvision:{name}" for name in TORCHVISION)]


@dataclass(frozen=True)
class Case:
    """A float model with what it gives for two images."""

    model: nn.Module
    images: Tensor
    logits: Tensor
    state: dict[str, Tensor]
    survey: Survey

    def converted(self, quantizer: Quantizer | None) -> ConvertedModel:
        """Every site that has a twin converted, with this quantizer for all its roles."""
        assignments = [
            Assignment(
                site,
                dict.fromkeys(site.twin.roles, quantizer) if site.twin and quantizer else {},
                site.reason,
            )
            for site in self.survey.sites
        ]
        return convert(self.model, self.survey, assignments)


manager = functools.cache(default_manager)


@functools.lru_cache(maxsize=1)  # both tests of a model run one after the other
def case(name: str) -> Case:
    """The model, with random weights and a batch of two."""
    torch.manual_seed(0)
    library, _, name = name.partition(":")
    edge = (TIMM if library == "timm" else TORCHVISION)[name]
    model = _timm(name, edge) if library == "timm" else _torchvision(name, edge)
    model = model.eval().requires_grad_(False)
    for parameter in model.parameters():
        # A classifier of zeros, as some are initialised, would hide everything before it.
        if parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    images = torch.randn(2, 3, edge, edge)
    logits = model(images)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    return Case(model, images, logits, state, survey(model, images, manager()))


def _timm(name: str, edge: int) -> nn.Module:
    timm = pytest.importorskip("timm")
    for settings in ({"img_size": edge}, {}):
        try:
            shallow = SHALLOW.get(name, {})
            model: nn.Module = timm.create_model(name, num_classes=10, **settings, **shallow)
        except TypeError:
            continue
        return model
    raise AssertionError(name)


def _torchvision(name: str, edge: int) -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    settings = {"image_size": edge} if name.startswith("vit") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of how GoogLeNet is initialised
        model: nn.Module = models.get_model(name, weights=None, num_classes=10, **settings)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_without_quantizers_the_bits_are_those_of_the_original(name: str) -> None:
    found = case(name)
    # torch's own attention has a fused path in eval mode, which rounds otherwise.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        expected = found.model(found.images)
        converted = found.converted(None)
        assert len(converted.layers) > 10
        assert torch.equal(converted(found.images), expected)
        assert torch.equal(converted(found.images[:1]), found.model(found.images[:1]))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("name", MODELS)
def test_model_is_converted_covered_and_near_its_original(name: str) -> None:
    found = case(name)
    quantizer = Quantizer(manager().formats.get("fp8_e4m3"), manager().modes.get("token"))
    converted = found.converted(quantizer)
    logits = converted(found.images)
    assert logits.isfinite().all()
    assert (logits - found.logits).norm() < NEAR.get(name, 0.5) * found.logits.norm()

    coverage = measure_coverage(converted, found.survey, found.images)
    total = sum(site.multiply_adds for site in coverage.values())
    assert total == found.survey.multiply_adds
    assert sum(site.both for site in coverage.values()) >= 0.99 * total
    why = {site.name: site.reason for site in found.survey.sites}
    assert all(why[n] for n, c in coverage.items() if c.one < c.multiply_adds)

    state = found.model.state_dict()
    assert state.keys() == found.state.keys()
    assert all(torch.equal(state[key], value) for key, value in found.state.items())
    assert torch.equal(found.model(found.images), found.logits)
