"""Rows: one flat record a case; every column is a field with its unit and meaning.

``results/README.md`` is made from these definitions and tested against them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from qbench_suite.results.model_rows import DetailRow


def column(meaning: str, unit: str = "", default: Any = None) -> Any:
    """A column of a table: what it means (with its formula) and the unit it is in."""
    return field(default=default, metadata={"meaning": meaning, "unit": unit})


@dataclass(kw_only=True)
class Row:
    """Columns that every row has."""

    #: Name of the table that rows of this kind make up.
    table: ClassVar[str] = ""

    case: str = column("id of the case, as between the brackets of the pytest id", default="")
    outcome: str = column(
        "passed, failed (a gate or compliance) or error (it could not be measured)", default="error"
    )
    reason: str = column("why the outcome is not passed; empty where it is", default="")
    format: str = column("name of the format", default="")
    format_owner: str = column("plugin that provides the format", default="")
    compliant: bool | None = column(
        "every quantized value is exactly q · scale for a q of the format"
    )
    violations: int | None = column("values off the grid", "values")
    violation: str = column(
        "the first value off the grid: tensor, index, value, scale, nearest legal value", default=""
    )
    latency_ms: float | None = column("median of the timed rounds", "ms")
    latency_min_ms: float | None = column("fastest round", "ms")
    latency_iqr_ms: float | None = column("interquartile range of the rounds", "ms")
    rounds: int | None = column("timed rounds", "rounds")
    device: str = column("torch device that the case ran on", default="cpu")
    compiled: bool | None = column(
        "no fake-quantize kernel of the process had fallen back to eager by then"
    )
    seed: int = column("seed of inputs and stochastic rounding", default=0)
    seconds: float | None = column("wall time of the whole case", "s")
    #: Rows of other tables that belong to this one; no column.
    details: list[DetailRow] = field(default_factory=list, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON types: NaN becomes None, ±Inf the strings ``inf`` and ``-inf``."""
        return {name: plain(value) for name, value in vars(self).items() if name != "details"}

    def details_to_json(self) -> dict[str, list[dict[str, Any]]]:
        """The rows that belong to this one, by table, as plain JSON types."""
        tables: dict[str, list[dict[str, Any]]] = {}
        for detail in self.details:
            tables.setdefault(detail.table, []).append(detail.to_json())
        return tables

    def to_extra_info(self) -> dict[str, Any]:
        """The row for the benchmark JSON: empty columns and those of the whole run left out.

        Numbers have 7 significant digits and texts end after 160 characters, as the benchmark JSON
        is read whole; the tables have all.
        """
        return {
            name: _short(value)
            for name, value in self.to_json().items()
            if value not in (None, "") and name not in _RUN_WIDE
        }


@dataclass(kw_only=True)
class LayerRow(Row):
    """A layer of a model, quantized, against the float layer on the same input."""

    table: ClassVar[str] = "layers"

    model: str = column("name of the model", default="")
    mode: str = column("name of the scaling mode", default="")
    layer: str = column("dotted name of the layer in the model", default="")
    layer_type: str = column("class of the float layer", default="")
    quant_type: str = column("class of the quantized layer", default="")
    roles: str = column("what was quantized: role=format-mode, separated by ;", default="")
    dataset: str = column("dataset that the reference input comes from", default="")
    batch: int | None = column("images in the reference input", "images")
    mse: float | None = column("mean((y − r)²) of the output y against the float output r")
    sqnr_db: float | None = column("10 log10(Σ r² / Σ (y − r)²); inf where there is no error", "dB")
    cosine: float | None = column("Σ y·r / (‖y‖ ‖r‖)")
    max_abs_err: float | None = column("max |y − r|")
    input_min: float | None = column("smallest finite element of the layer's input")
    input_max: float | None = column("largest finite element of the layer's input")
    input_absmax: float | None = column("largest finite magnitude in the layer's input")
    input_dynamic_range_db: float | None = column(
        "20 log10(absmax / smallest magnitude above 0) of the input", "dB"
    )
    input_nan_count: int | None = column("NaN elements in the layer's input", "values")
    input_inf_count: int | None = column("±Inf elements in the layer's input", "values")
    output_nonfinite_count: int | None = column(
        "outputs that are NaN or ±Inf where the float output is finite", "values"
    )
    weight_bits_per_value: float | None = column(
        "bits of a weight with its share of scales: bits + groups · scale bits / elements", "bits"
    )
    input_bits_per_value: float | None = column("the same for the input", "bits")
    weight_nonfinite_count: int | None = column(
        "NaN and ±Inf elements of the float weight; empty where no weight is quantized", "values"
    )
    fp32_latency_ms: float | None = column(
        "median latency of the float layer, timed before each round", "ms"
    )
    slowdown: float | None = column(
        "median over the rounds of latency / float latency of the same round; emulation costs, so it is above 1"
    )
    min_sqnr_db: float | None = column(
        "gate that sqnr_db must reach; empty where the gate table has none", "dB"
    )


@dataclass(kw_only=True)
class FormatRow(Row):
    """A format by itself, on samples of a named distribution."""

    table: ClassVar[str] = "formats"

    distribution: str = column("distribution of the samples", default="")
    samples: int | None = column("number of samples", "values")
    bits: int | None = column("width of a code", "bits")
    value_count: int | None = column("distinct finite values; empty above 16 bits", "values")
    max_value: float | None = column("largest magnitude")
    smallest_value: float | None = column("smallest positive value")
    dynamic_range_db: float | None = column("20 log10(max_value / smallest_value)", "dB")
    mse: float | None = column("mean((y − x)²) after scaling by absmax / max_value, one scale")
    sqnr_db: float | None = column("10 log10(Σ x² / Σ (y − x)²)", "dB")
    idempotent: bool | None = column("round(round(x)) equals round(x) bit for bit")
    monotonic: bool | None = column("x ≤ z implies round(x) ≤ round(z), over all samples")
    round_trip: bool | None = column("decode(encode(round(x))) equals round(x)")
    min_sqnr_db: float | None = column(
        "gate that sqnr_db must reach; empty where the gate table has none", "dB"
    )


@dataclass(kw_only=True)
class QuantizerRow(Row):
    """The throughput of a format in a mode."""

    table: ClassVar[str] = "quantizers"

    mode: str = column("name of the scaling mode", default="")
    shape: str = column("shape of the tensor", default="")
    dtype: str = column("element type of the tensor", default="")
    threads: int | None = column("threads torch computes with", "threads")
    gelem_per_s: float | None = column("10⁻⁹ · elements / median latency", "Gelem/s")
    bytes_moved: int | None = column(
        "bytes a perfect kernel moves: input read once (twice for a scale a tensor), output and scales written",
        "bytes",
    )
    gb_per_s: float | None = column("10⁻⁹ · bytes_moved / median latency", "GB/s")
    copy_ms: float | None = column(
        "median of a plain copy of the tensor into an existing buffer, timed before each round",
        "ms",
    )
    copy_ratio: float | None = column("copy_ms / latency_ms: 1 is the speed of copying")
    eager_ms: float | None = column(
        "median of the same function uncompiled, with a fresh output", "ms"
    )
    eager_ratio: float | None = column("eager_ms / latency_ms")
    peak_bytes_ratio: float | None = column(
        "peak of the memory allocated during a call with a fresh output, over the bytes of the output"
    )
    bits_per_value: float | None = column("bits of an element with its share of scales", "bits")


@dataclass(kw_only=True)
class RunColumns:
    """What a run has in common; joined to each of its rows in the tables."""

    run: str = column("name of the run: its folder under results/", default="")
    started_at: str = column("start of the process that measured the row, UTC", default="")
    suite_version: str = column("version of qbench_suite", default="")
    torch_version: str = column("version of torch", default="")
    timm_version: str = column("version of timm; empty where absent", default="")
    python_version: str = column("version of Python", default="")
    machine: str = column("processor, or GPU where the device is one", default="")
    allocator: str = column(
        "kept: freed blocks stay with the process, so that timed rounds fault no pages; default: the C library decides",
        default="",
    )
    plugins: str = column("plugins in use, with versions", default="")
    arguments: str = column(
        "options of the suite that the run was given, which a single case is measured again with",
        default="",
    )


#: Columns that the benchmark JSON holds anyway: in its machine_info, or as an entry's param and stats.
_RUN_WIDE = frozenset(
    {
        "case",
        "device",
        "seed",
        "batch",
        "rounds",
        "format_owner",
        "latency_ms",
        "latency_min_ms",
        "latency_iqr_ms",
    }
)

#: Characters of a text that go to the benchmark JSON.
_LONGEST_TEXT = 160


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")
    return value[:_LONGEST_TEXT] if isinstance(value, str) else value


def plain(value: Any) -> Any:
    """``value`` as a plain JSON type: NaN becomes None, ±Inf the strings ``inf`` and ``-inf``."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
