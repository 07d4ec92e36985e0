"""Three-bit weights of a trained model on real images: lost by nearest, kept by the rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench_suite import default_manager
from qbench_suite.engine import Engine, Selection, Settings
from qbench_suite.results import ModelRow
from qbench_suite.timing import Samples

REAL = Path(__file__).parents[4] / "shared" / "data"


def real(name: str) -> Path:
    if not (REAL / name).exists():
        pytest.skip(f"the real data is not at {REAL / name}")
    return REAL / name


@pytest.mark.slow
def test_resnet20_keeps_its_accuracy_at_three_bits(tmp_path: Path) -> None:
    model = f"cifar:resnet20@{real('resnet20_cifar10.safetensors')}"
    test, train = (f"npz:{real(f'cifar10_{name}.npz')}" for name in ("test", "calib2000"))
    settings = Settings(dataset=test, images=1000, eval_batch=250, layerwise=False)
    engine = Engine(default_manager(), settings)
    drop = {}
    for rule in ("nearest", "gptq"):
        path = tmp_path / f"{rule}.yaml"
        path.write_text(
            "weight_format: int3\nweight_mode: channel\nweight_range: mse\ninput_format: none\n"
            f"weight_rounding: {rule}\n"
            + (f'calibration: {{images: 256, dataset: "{train}"}}\n' if rule == "gptq" else "")
        )
        (case,) = engine.model_cases(Selection(models=model, policies=str(path)))
        row = engine.run(case, lambda function, before=None: Samples(()))
        assert isinstance(row, ModelRow)
        assert row.outcome == "passed", row.reason
        assert row.compliant is True
        assert row.top1_drop is not None
        drop[rule] = row.top1_drop
    assert drop["nearest"] > 15.0
    assert drop["gptq"] < 2.0
