"""EvaluatedRow: what a whole model that was made smaller gives, against its float original."""

from __future__ import annotations

from dataclasses import dataclass

from qbench_suite.results.row import Row, column


@dataclass(kw_only=True)
class EvaluatedRow(Row):
    """Columns of accuracy and of drift, of a model and of its float original on the same images."""

    model: str = column("name of the model", default="")
    dataset: str = column("dataset evaluated on", default="")
    preprocessing: str = column("how an image became the model's input", default="")
    images: int | None = column("images evaluated", "images")
    skipped_images: int | None = column("images left out, as they cannot be read", "images")
    skipped: str = column("the first few of them", default="")
    batch: int | None = column(
        "images in a batch; less than asked for where memory ran out", "images"
    )
    top1: float | None = column("images whose most probable class is the label", "%")
    top1_low: float | None = column("lower end of the 95 % Wilson interval of top1", "%")
    top1_high: float | None = column("upper end of it", "%")
    top5: float | None = column("images whose label is among the five most probable classes", "%")
    top5_low: float | None = column("lower end of the 95 % Wilson interval of top5", "%")
    top5_high: float | None = column("upper end of it", "%")
    certainty: float | None = column("mean over images of the largest softmax probability")
    fp32_top1: float | None = column("top1 of the float model on the same images", "%")
    fp32_top1_low: float | None = column("lower end of its 95 % Wilson interval", "%")
    fp32_top1_high: float | None = column("upper end of it", "%")
    fp32_top5: float | None = column("top5 of the float model on the same images", "%")
    fp32_top5_low: float | None = column("lower end of its 95 % Wilson interval", "%")
    fp32_top5_high: float | None = column("upper end of it", "%")
    fp32_certainty: float | None = column("certainty of the float model")
    top1_drop: float | None = column("fp32_top1 − top1", "points")
    top1_drop_low: float | None = column(
        "lower end of the 95 % interval of top1_drop from lost and gained: the images are the same, so it is narrower than those of the two accuracies",
        "points",
    )
    top1_drop_high: float | None = column("upper end of it", "points")
    lost: int | None = column("images that the float model gets right and this one wrong", "images")
    gained: int | None = column(
        "images that the float model gets wrong and this one right", "images"
    )
    agreement: float | None = column("images of one most probable class in both models", "%")
    kl: float | None = column(
        "mean over images of Σ p log(p / q), p softmax of the float model, q of this one", "nat"
    )
    mse: float | None = column("mean((y − r)²) of the logits y against the float logits r")
    sqnr_db: float | None = column("10 log10(Σ r² / Σ (y − r)²) of the logits", "dB")
    cosine: float | None = column("Σ y·r / (‖y‖ ‖r‖) of the logits")
    nonfinite_count: int | None = column(
        "logits that are NaN or ±Inf where the float model's are finite", "values"
    )
    fp32_nonfinite_count: int | None = column(
        "logits of the float model that are NaN or ±Inf", "values"
    )
