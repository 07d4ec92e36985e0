"""Runs made up for the reports, written through the journal as a real run writes them."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from qbench_suite.results import (
    FormatRow,
    IntegerRow,
    IntegerStageRow,
    Journal,
    LayerRow,
    LinearRow,
    ModelLayerRow,
    ModelRow,
    NormRow,
    QuantizerRow,
    Row,
    ViolationRow,
)

HEADER = {
    "started_at": "2026-03-14T09:26:53+00:00",
    "suite_version": "0.2.0",
    "torch_version": "2.9.0+cpu",
    "timm_version": "1.0.20",
    "python_version": "3.12.4",
    "machine": "AMD EPYC 7763 x16",
    "device": "cpu",
    "threads": 16,
    "allocator": "kept",
    "compiler": "gcc 13.2",
    "plugins": "qbench_formats 0.2.0; qbench_layers 0.2.0; qbench_vision 0.2.0",
    "arguments": "--qbench-policies='w*a*' --qbench-images=2000",
    "roles": {"weight": "*", "input": "*"},
}

#: name: (fp32 top-1, images, classes a guess is among, how its layers are called)
MODELS = {
    "deit_tiny_patch16_224": (72.13, 2000, 1000, "vit"),
    "resnet20_cifar10": (92.6, 10000, 10, "resnet"),
    "convnext_digits": (98.9, 360, 10, "convnext"),
}
#: name: (weight bits, input bits, loss of top-1 at it for a model that loses much)
POLICIES = {
    "w2a8-chunk32": (2.5, 8.25, 41.0),
    "w3a8-channel": (3.02, 8.0, 18.3),
    "w3a8-chunk64": (3.25, 8.0, 8.9),
    "w4a4-mx32": (4.25, 4.25, 9.6),
    "w4a4-nv16": (4.5, 4.5, 4.2),
    "w4a8-channel": (4.03, 8.0, 3.1),
    "w4a8-mx32": (4.25, 8.25, 0.9),
    "w4a16-chunk128": (4.14, 16.0, 1.4),
    "w6a6-mx32": (6.25, 6.25, 0.35),
    "w8a8-channel": (8.02, 8.0, 0.2),
    "w8a8-int-static": (8.02, 8.0, 1.3),
    "w8a8-mx32": (8.25, 8.25, 0.05),
    "fp8_e5m2-tensor": (8.0, 8.0, 1.9),
    "fp8_e4m3-token": (8.1, 8.25, -0.05),
}


def wilson(right: int, of: int) -> tuple[float, float]:
    z = 1.96
    p = right / of
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return 100 * (middle - half), 100 * (middle + half)


def layer_names(kind: str, count: int) -> list[tuple[str, str]]:
    """(name, type) of ``count`` layers of a network of a kind."""
    blocks = {
        "vit": [
            ("blocks.{}.norm1", "LayerNorm"),
            ("blocks.{}.attn.qkv", "Linear"),
            ("blocks.{}.attn:sdpa", "scaled_dot_product_attention"),
            ("blocks.{}.attn.proj", "Linear"),
            ("blocks.{}.norm2", "LayerNorm"),
            ("blocks.{}.mlp.fc1", "Linear"),
            ("blocks.{}.mlp.act", "GELU"),
            ("blocks.{}.mlp.fc2", "Linear"),
        ],
        "resnet": [
            ("layer{}.conv1", "Conv2d"),
            ("layer{}.bn1", "BatchNorm2d"),
            ("layer{}.act1", "ReLU"),
            ("layer{}.conv2", "Conv2d"),
            ("layer{}.bn2", "BatchNorm2d"),
            ("layer{}:add", "add"),
        ],
        "convnext": [
            ("stages.{}.conv_dw", "Conv2d"),
            ("stages.{}.norm", "LayerNorm"),
            ("stages.{}.mlp.fc1", "Linear"),
            ("stages.{}.mlp.act", "GELU"),
            ("stages.{}.mlp.fc2", "Linear"),
        ],
    }[kind]
    body = [(n.format(b), t) for b in range(count) for n, t in blocks]
    return [*[("stem.proj", "Conv2d"), *body][: count - 1], ("head", "Linear")]


def model_row(
    model: str,
    policy: str,
    *,
    top1: float = 70.0,
    fp32: float = 72.13,
    images: int = 2000,
    weight_bits: float = 4.25,
    input_bits: float = 8.25,
    **changes: Any,
) -> ModelRow:
    """A model case with numbers that hang together."""
    right, fp32_right = round(top1 * images / 100), round(fp32 * images / 100)
    low, high = wilson(right, images)
    fp32_low, fp32_high = wilson(fp32_right, images)
    loss = max(fp32 - top1, 0.02)
    lost, gained = round(loss * images / 80), round(loss * images / 500)
    half = 196 * math.sqrt(lost + gained + 1) / images
    facts: dict[str, Any] = {
        "case": f"{model}-{policy}".replace("/", ".").replace(":", "."),
        "outcome": "passed",
        "format_owner": "qbench_formats 0.2.0",
        "compliant": True,
        "violations": 0,
        "policy_hash": "3f2a90be11c7",
        "formats": "int4;fp8_e4m3",
        "modes": "chunk32;token",
        "scales": "dynamic",
        "dataset": "imagenet_val",
        "preprocessing": "resize 248 bicubic, crop 224, normalise",
        "skipped_images": 0,
        "batch": 32,
        "top5": min(top1 + 19, 99.6),
        "top5_low": min(top1 + 18, 99.4),
        "top5_high": min(top1 + 20, 99.8),
        "certainty": 0.61 - loss / 200,
        "fp32_top5": min(fp32 + 19, 99.7),
        "fp32_certainty": 0.62,
        "top1_drop": fp32 - top1,
        "top1_drop_low": fp32 - top1 - half,
        "top1_drop_high": fp32 - top1 + half,
        "lost": lost,
        "gained": gained,
        "agreement": 100 - 1.4 * loss,
        "kl": loss / 60,
        "mse": loss / 30,
        "sqnr_db": 26 - 8 * math.log10(loss / 0.1 + 1),
        "cosine": 1 - loss / 400,
        "nonfinite_count": 0,
        "fp32_nonfinite_count": 0,
        "multiply_adds": 1_258_000_000,
        "coverage": 0.998,
        "full_coverage": 0.962,
        "quantized_layers": 71,
        "float_layers": 4,
        "weight_bytes": round(5_717_416 * weight_bits / 8),
        "checked_values": 412_000_000,
        "compliance": "weight=50;input=74;act=12;output=49",
        "latency_ms": 210.0 + 3 * weight_bits,
        "latency_min_ms": 201.0,
        "latency_iqr_ms": 9.0,
        "fp32_latency_ms": 61.0,
        "slowdown": 3.4 + weight_bits / 20,
        "layerwise_slowdown": 4.9,
        "rounds": 5,
        "compiled": True,
        "seconds": 96.0,
    }
    facts |= {
        "model": model,
        "policy": policy,
        "images": images,
        "top1": 100 * right / images,
        "top1_low": low,
        "top1_high": high,
        "fp32_top1": 100 * fp32_right / images,
        "fp32_top1_low": fp32_low,
        "fp32_top1_high": fp32_high,
        "weight_bits": weight_bits,
        "input_bits": input_bits,
    }
    return ModelRow(**(facts | changes))


def model_layer_rows(
    row: ModelRow, kind: str = "vit", count: int = 75, seed: int = 0
) -> list[ModelLayerRow]:
    """Layers of a converted model whose error grows with depth and shrinks with bits."""
    noise = random.Random(f"{row.case}{seed}")
    bits = min(row.weight_bits or 8, row.input_bits or 8)
    rows = []
    for order, (name, kind_of_layer) in enumerate(layer_names(kind, count)):
        left = kind_of_layer in ("scaled_dot_product_attention",) and order % 3 == 0
        sqnr = 6.02 * bits - 3 - 9 * order / count + noise.gauss(0, 2.2)
        rows.append(
            ModelLayerRow(
                case=row.case,
                model=row.model,
                policy=row.policy,
                order=order,
                layer=name,
                layer_type=kind_of_layer,
                quant_type="" if left else f"Quant{kind_of_layer}",
                roles=""
                if left
                else f"weight={row.formats.split(';')[0]}-chunk32;input=fp8_e4m3-token",
                reason="the policy keeps it float" if left else "",
                multiply_adds=11_000_000 + order if kind_of_layer in ("Linear", "Conv2d") else 0,
                coverage=0.0 if left else 1.0,
                weight_bits=row.weight_bits if kind_of_layer in ("Linear", "Conv2d") else None,
                mse=10 ** (-sqnr / 10) * 0.8,
                sqnr_db=sqnr,
                cosine=1 - 10 ** (-sqnr / 10) / 2,
                max_abs_err=10 ** (-sqnr / 20) * 9,
                nonfinite_count=0,
                input_min=-3.0 - noise.random() * order,
                input_max=4.0 + noise.random() * order,
                input_absmax=4.0 + order,
                input_dynamic_range_db=80 + noise.random() * 60,
                checked_values=5_493_333,
                violations=0,
            )
        )
    return rows


def violation_rows(row: ModelRow, count: int = 3) -> list[ViolationRow]:
    """Values of a converted model off the grid."""
    return [
        ViolationRow(
            case=row.case,
            model=row.model,
            policy=row.policy,
            layer=f"blocks.{number}.attn.qkv",
            role="input",
            tensor="input",
            index=f"{number},12,7",
            value="0.30000001192092896",
            nearest_below="0.28125",
            nearest_above="0.3125",
            scale="0.03125",
            format="fp8_e4m3",
            mode="token",
            batch_index=4,
        )
        for number in range(count)
    ]


def layer_rows(
    models: list[str], formats: list[str], modes: list[str], count: int = 53, seed: int = 0
) -> list[Row]:
    """A layer grid: every layer of every model in every format and mode."""
    noise = random.Random(seed)
    grid = [(m, f, o, n) for m in models for f in formats for o in modes for n in range(count)]
    rows: list[Row] = []
    for model, format, mode, number in grid:
        kind = ("vit", "resnet", "convnext")[models.index(model) % 3]
        name, layer_type = layer_names(kind, count)[number]
        base = 24.0 + 6 * ("e4m3" in format) - 2.2 * ("mx" in mode) + 0.9 * ("chunk" in mode)
        sqnr = base - 6 * (layer_type == "BatchNorm2d") + noise.gauss(0, 1.6)
        rows.append(
            LayerRow(
                case=f"{model}-{format}-{mode}-{name}".replace(":", "."),
                outcome="passed" if sqnr > 14 else "failed",
                reason="" if sqnr > 14 else "sqnr_db is below its gate",
                format=format,
                format_owner="qbench_formats 0.2.0",
                compliant=True,
                violations=0,
                latency_ms=0.4 + noise.random(),
                latency_min_ms=0.39,
                latency_iqr_ms=0.03,
                rounds=3,
                compiled=True,
                model=model,
                mode=mode,
                layer=name,
                layer_type=layer_type,
                quant_type=f"Quant{layer_type}",
                roles=f"weight={format}-{mode};input={format}-{mode}",
                dataset="digits",
                batch=16,
                mse=10 ** (-sqnr / 10),
                sqnr_db=sqnr,
                cosine=1 - 10 ** (-sqnr / 10) / 2,
                input_dynamic_range_db=90.0,
                weight_bits_per_value=8.25 if "mx" in mode else 8.0 + 0.8 * ("chunk" in mode),
                input_bits_per_value=8.25 if "mx" in mode else 8.0 + 0.8 * ("chunk" in mode),
                fp32_latency_ms=0.06,
                slowdown=7.5 + noise.random(),
                min_sqnr_db=14.0,
                seconds=0.02,
            )
        )
    return rows


def small_rows() -> list[Row]:
    """Format and quantizer cases."""
    formats: list[Row] = [
        FormatRow(
            case=f"{name}-{distribution}",
            outcome="passed",
            format=name,
            distribution=distribution,
            samples=100_000,
            bits=8,
            value_count=253,
            max_value=448.0,
            smallest_value=2.0**-9,
            dynamic_range_db=107.2,
            mse=1e-4,
            sqnr_db=31.0 - 5 * number - place,
            idempotent=True,
            monotonic=True,
            round_trip=True,
        )
        for number, name in enumerate(("fp8_e4m3", "fp8_e5m2"))
        for place, distribution in enumerate(("normal", "uniform", "laplace", "outliers"))
    ]
    quantizers: list[Row] = [
        QuantizerRow(
            case=f"fp8_e4m3-{mode}",
            outcome="passed",
            format="fp8_e4m3",
            mode=mode,
            shape="8192x4096",
            dtype="float32",
            threads=16,
            gelem_per_s=1.9,
            bytes_moved=1 << 28,
            gb_per_s=15.2,
            copy_ms=11.0,
            copy_ratio=0.7,
            eager_ms=90.0,
            eager_ratio=5.5,
            bits_per_value=8.25,
            latency_ms=16.4,
        )
        for mode in ("tensor", "channel", "mx32")
    ]
    return [*formats, *quantizers]


#: name: (bytes of weights under FP32, latency at 1 row and at 2048 rows, SQNR)
LINEARS = {
    "w8a16": (4.0, 0.4, 165.0, 41.2),
    "w4a16": (7.5, 0.25, 170.0, 20.5),
    "torchao.int8wo": (4.0, 16.0, 190.0, 41.2),
    "quanto.int8": (4.0, 0.42, 480.0, 40.7),
}


def linear_rows() -> list[Row]:
    """Four layers on two dtypes and six numbers of rows, one of them off its gate."""
    rows: list[Row] = []
    for entry, (smaller, one, many, sqnr) in LINEARS.items():
        for dtype in ("bfloat16", "float32"):
            for number in (1, 4, 16, 64, 256, 2048):
                share = math.log2(number) / 11
                latency = one ** (1 - share) * many**share
                fp32 = 2.7 * number**0.72
                rows.append(
                    LinearRow(
                        case=f"{entry}-{dtype}-4096x4096-{number}",
                        outcome="passed",
                        format="int4" if "4" in entry else "int8",
                        entry=entry,
                        entry_owner="qbench_w8a16",
                        dtype=dtype,
                        in_features=4096,
                        out_features=4096,
                        rows=number,
                        kernel="int8pack" if number < 16 else "product on cast weights",
                        threads=2,
                        latency_ms=latency,
                        fp32_latency_ms=fp32,
                        bf16_latency_ms=0.7 * number**0.7,
                        speedup_fp32=fp32 / latency,
                        speedup_bf16=0.7 * number**0.7 / latency,
                        weight_bytes=int((1 << 26) / smaller),
                        fp32_weight_bytes=1 << 26,
                        compression=smaller,
                        peak_bytes=8192 * number,
                        gb_per_s=41.0,
                        sqnr_db=sqnr,
                        bf16_sqnr_db=50.8,
                        weight_sqnr_db=sqnr + 0.3,
                        max_abs_err=0.04,
                    )
                )
    rows[-1].outcome, rows[-1].reason = "failed", "sqnr_db of int8 weights is at least 41 dB"
    return rows


STAGES = {"norm1": 42.0, "qkv": 38.5, "attention": 33.0, "proj": 30.1, "norm2": 41.0, "fc2": 29.0,
          "branch": 27.9}  # fmt: skip


def integer_rows() -> list[Row]:
    """Two methods on two models; of one model the instructions were not looked at."""
    rows: list[Row] = []
    for model, top1 in (("vit", 98.3), ("timm:deit_tiny_patch16_224", 72.1)):
        for method, loss in (("fqvit.log8", 0.2), ("fqvit.log4", 0.9)):
            seen = model == "vit"
            row = IntegerRow(
                case=f"{model.replace(':', '.')}-{method}",
                outcome="passed",
                format="int8",
                model=model,
                method=method,
                images=360,
                fp32_top1=top1,
                fp32_top1_low=top1 - 1.4,
                fp32_top1_high=top1 + 0.9,
                top1=top1 - loss,
                top1_low=top1 - loss - 1.5,
                top1_high=top1 - loss + 0.9,
                top1_drop=loss,
                blocks=12,
                refused_blocks=0,
                calibration_s=11.2,
                integer_only=True if seen else None,
                audits="dispatch: 31 operations on integers; export: 40 nodes",
                audited_operations=31,
                float_operations=0,
                audited_instructions=4123 if seen else None,
                float_instructions=0 if seen else None,
                branch_sqnr_db=27.9,
                worst_block="blocks.11",
                timed_block="blocks.0",
                latency_ms=4.1,
                block_fp32_ms=19.8,
                block_bf16_ms=7.5,
                block_bf16_compiled_ms=7.1,
                speedup_fp32=4.83,
                speedup_bf16=1.83,
                speedup_bf16_compiled=1.73,
                model_ms=60.0,
                model_fp32_ms=250.0,
                model_speedup=4.17,
                state_bytes=450_000,
                fp32_state_bytes=1_780_000,
            )
            row.details += [
                IntegerStageRow(
                    case=row.case, model=model, method=method, order=block * 10 + place,
                    block=f"blocks.{block}", stage=stage, sqnr_db=sqnr - loss * 3 - block / 4,
                    cosine=0.9999, mse=1e-4, max_abs_err=0.1,
                )
                for block in range(12)
                for place, (stage, sqnr) in enumerate(STAGES.items())
            ]  # fmt: skip
            rows.append(row)
    return rows


def write_run(folder: Path, *rows: Row, **header: Any) -> Path:
    """A finished run of ``rows`` in ``folder``."""
    journal = Journal(folder, {"run": folder.name, **HEADER, **header}, joins=True)
    for row in rows:
        key = f"{row.table}/{row.case}"
        journal.started(key)
        journal.finished(key, row.table, row.to_json(), row.details_to_json())
    journal.close()
    return folder


def realistic_models() -> list[Row]:
    """Three models by fourteen policies, one of them off the grid, one that could not be measured."""
    rows: list[Row] = []
    sizes = {"vit": 99, "resnet": 57, "convnext": 33}
    for model, (fp32, images, classes, kind) in MODELS.items():
        share = {"vit": 1.0, "resnet": 0.35, "convnext": 0.14}[kind]
        for policy, (weight, inputs, loss) in POLICIES.items():
            noise = random.Random(f"{model}{policy}")
            top1 = max(fp32 - loss * share * (0.8 + 0.4 * noise.random()), 100 / classes)
            row = model_row(
                model,
                policy,
                top1=top1,
                fp32=fp32,
                images=images,
                weight_bits=weight,
                input_bits=inputs,
                dataset={"vit": "imagenet_val", "resnet": "cifar10", "convnext": "digits"}[kind],
                latency_ms=190 + 60 * noise.random(),
                latency_min_ms=185.0,
                latency_iqr_ms=4 + 12 * noise.random(),
                slowdown=3.1 + 1.2 * noise.random(),
                top5=None if classes == 10 else min(top1 + 19, 99.6),
                scales="static" if "static" in policy else "dynamic",
            )
            row.details += model_layer_rows(row, kind, sizes[kind])
            rows.append(row)
    off = rows[4]
    assert isinstance(off, ModelRow)
    off.outcome, off.compliant, off.violations = "failed", False, 1821
    off.reason = "1821 of 412000000 values are off the grid"
    off.violation = "blocks.0.attn.qkv input[0,12,7] = 0.30000001192092896"
    off.details += violation_rows(off)
    error = "TorchRuntimeError: the plugin my_format raised: expected a float tensor"
    rows[20] = ModelRow(
        case=rows[20].case,
        model="resnet20_cifar10",
        policy="w6a8-mine",
        outcome="error",
        reason=error,
    )
    return rows


class Page(HTMLParser):
    """A page as a parser reads it: fails where tags do not match or an id comes twice."""

    VOID = frozenset(
        {"meta", "br", "hr", "img", "input", "link", "col", "wbr", "path", "use", "image"}
    )

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = text
        self.open: list[str] = []
        #: Visible text by the tag it is in.
        self.texts: list[tuple[str, str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        #: Names of elements in order.
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open
        ids = [value for _, name, value in self.attributes if name == "id"]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        # In SVG any element may close itself, which the parser tells apart.
        if tag not in self.VOID or tag in ("path", "use", "image"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def visible(self) -> str:
        """Everything that is no script and no style."""
        return " ".join(text for tag, text in self.texts if tag not in ("script", "style"))

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """The JSON of each sortable table, by id."""
        ids = [value for _, name, value in self.attributes if name == "data-table"]
        blocks = [t for tag, t in self.texts if tag == "script" and t.startswith('{"columns"')]
        return dict(zip(ids, map(json.loads, blocks), strict=True))

    def column(self, table: str, label: str) -> list[Any]:
        """The values of a column of a sortable table."""
        content = self.tables[table]
        number = [column["label"] for column in content["columns"]].index(label)
        return [row[number] for row in content["rows"]]


#: provider: share of a copy, error in ulps.
NORMS = {
    "cuda": (0.93, 0.51),
    "torch": (0.62, 0.52),
    "torch.compile": (0.8, 0.52),
    "triton": (0.7, 0.6),
}


NORM_SHAPES = {"1024x768": 768 << 10, "2048x4096": 4096 << 11, "16384x4096": 4096 << 14}


def norm_rows() -> list[Row]:
    """Three operations in two dtypes on three shapes by four providers, one of them off its tolerance."""
    axes = itertools.product(
        ("layer_norm", "rms_norm", "rms_norm_backward"), ("bfloat16", "float32"), NORM_SHAPES, NORMS
    )
    rows = [norm_row(*case) for case in axes]
    failed = next(row for row in rows if row.provider == "triton")
    failed.outcome, failed.max_ulp = "failed", 9.0
    failed.reason = "y is within 1 ulp of bfloat16 of the float64 result; triton is off by 9"
    return [*rows]


def norm_row(operation: str, dtype: str, shape: str, provider: str) -> NormRow:
    """A kernel beside a copy that is the faster the more there is to move."""
    backward = operation.endswith("_backward")
    moved = NORM_SHAPES[shape] * {"bfloat16": 2, "float32": 4}[dtype] * (3 if backward else 2)
    share, ulp = NORMS[provider]
    copy = 100.0 * (1 - math.exp(-moved / 3e7))
    speed = copy * share
    return NormRow(
        case=f"{provider}-{operation}-{shape}-{dtype}",
        outcome="passed",
        format="bf16" if dtype == "bfloat16" else "fp32",
        provider=provider,
        kernel_owner="qbench_norms",
        operation=operation,
        direction="backward" if backward else "forward",
        shape=shape,
        dtype=dtype,
        affine="weight",
        latency_ms=moved / speed * 1e-6,
        method="cuda_graph",
        cache="cold",
        input_sets=51,
        warm_latency_ms=moved / speed * 0.8e-6,
        host_overhead_us=3.5,
        bytes_moved=moved,
        gb_per_s=speed,
        copy_gb_per_s=copy,
        copy_share=share,
        torch_latency_ms=moved / (copy * NORMS["torch"][0]) * 1e-6,
        speedup_torch=share / NORMS["torch"][0],
        max_ulp=ulp,
        p999_ulp=0.5,
        worst_output="dx" if backward else "y",
        tolerance_ulp=1.0,
        torch_max_ulp=0.52,
        ulp_over_torch=ulp,
        deterministic=True,
    )


class Made:
    """The builders of this file, for tests."""

    model_row = staticmethod(model_row)
    model_layer_rows = staticmethod(model_layer_rows)
    violation_rows = staticmethod(violation_rows)
    layer_rows = staticmethod(layer_rows)
    small_rows = staticmethod(small_rows)
    linear_rows = staticmethod(linear_rows)
    integer_rows = staticmethod(integer_rows)
    norm_rows = staticmethod(norm_rows)
    realistic_models = staticmethod(realistic_models)
    Page = Page
    POLICIES = POLICIES


@pytest.fixture(scope="session")
def made() -> type[Made]:
    """Builders of rows, and ``Page``."""
    return Made


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """``make_run(*rows)``: the folder of a finished run of these rows."""

    def make(*rows: Row, name: str = "20260314-092653-4711", **header: Any) -> Path:
        return write_run(tmp_path / name, *rows, **header)

    return make


@pytest.fixture(scope="session")
def realistic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every kind of case, as ``write_reports`` leaves it."""
    from qbench_suite.report import write_reports

    folder = tmp_path_factory.mktemp("runs") / "realistic"
    layers = layer_rows(["vit", "resnet"], ["fp8_e4m3", "fp8_e5m2"], ["tensor", "mx32"], 20)
    computed = (*linear_rows(), *integer_rows(), *norm_rows())
    write_run(folder, *realistic_models(), *layers, *small_rows(), *computed)
    write_reports(folder)
    return folder


@pytest.fixture(scope="session")
def realistic_page(realistic: Path) -> Page:
    """The page of ``realistic``."""
    return Page((realistic / "report.html").read_text(encoding="utf-8"))
