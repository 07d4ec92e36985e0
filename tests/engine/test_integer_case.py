"""Integer cases: columns by an independent computation, and what goes wrong without losing the rest."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench_suite import (
    ConversionError,
    DatasetEntry,
    IntegerBlock,
    IntegerMethod,
    IntegerModel,
    Manager,
)
from qbench_suite.engine import Engine, Selection, Settings
from qbench_suite.errors import BrokenImageError
from qbench_suite.results import Gates, IntegerRow, IntegerStageRow
from qbench_suite.timing import RoundTimer, Samples

MakeManager = Callable[..., Manager]
Run = Callable[..., IntegerRow]
TIMER = RoundTimer(rounds=2, warmup=1)
COUNT = 20
OPTIONS: dict[str, Any] = {"eval_batch": 8, "dataset": "images", "compiled_twin": False}


def untimed(function: Callable[[], object], before: Callable[[], object] | None = None) -> Samples:
    return Samples(())


class FloatBlock(nn.Module):
    """x + max(x, 0) / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unused", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return x + x.relu() / 2


class Net(nn.Module):
    def __init__(self, head_bias: float = 0.0, blocks: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.flatten, self.stem = nn.Flatten(), nn.Linear(48, 8)
        self.blocks = nn.Sequential(*(FloatBlock() for _ in range(blocks)))
        self.head = nn.Linear(8, 5)
        with torch.no_grad():
            self.head.bias += head_bias

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(self.flatten(x))))  # type: ignore[no-any-return]


class Shift(IntegerBlock):
    """The same on int16 codes of one scale; the division by two is a shift."""

    float_state = ("scale",)
    scale: Tensor

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("bits", torch.ones(3, dtype=torch.int16))

    def forward(self, codes: Tensor) -> Tensor:
        return codes + (codes.clamp(min=0) >> 1)

    def quantize_input(self, x: Tensor) -> Tensor:
        return torch.round(x / self.scale).to(torch.int16)

    def dequantize_output(self, codes: Tensor) -> Tensor:
        return codes * self.scale

    def stages(self, codes: Tensor) -> Mapping[str, Tensor]:
        half = codes.clamp(min=0) >> 1
        return {"half": half * self.scale, "sum": (codes + half) * self.scale}

    def float_stages(self, x: Tensor) -> Mapping[str, Tensor]:
        half = x.relu() / 2
        return {"half": half, "sum": x + half}


class Rim(nn.Module):
    """Floats in, floats out."""

    def __init__(self, block: IntegerBlock) -> None:
        super().__init__()
        self.block = block

    def pass_through(self, x: Tensor) -> Tensor:
        return self.block.dequantize_output(self.block(self.block.quantize_input(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.pass_through(x)


def method(
    block: type[Shift] = Shift, refused: Mapping[str, str] | None = None, name: str = "shift"
) -> IntegerMethod:
    def convert(model: nn.Module, batches: Sequence[Tensor]) -> IntegerModel:
        refusals, module = dict(refused or {}), copy.deepcopy(model)
        largest = max(float(model.stem(model.flatten(x)).abs().max()) for x in batches)
        made = {
            f"blocks.{place}": block(largest / 127 / (place + 1))
            for place in range(len(model.blocks))
            if f"blocks.{place}" not in refusals
        }
        for dotted, one in made.items():
            module.set_submodule(dotted, Rim(one))
        return IntegerModel(module, made, refusals)

    return IntegerMethod(name=name, convert=convert, default_models=("m",), default=True)


class Images:
    def __init__(self, split: str, broken: Sequence[int] = ()) -> None:
        generator = torch.Generator().manual_seed(int(split == "train"))
        self.x = torch.rand(COUNT, 3, 4, 4, generator=generator)
        self.broken = broken

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index in self.broken:
            raise BrokenImageError(f"image {index} is cut short")
        return self.x[index], index % 5


DATASETS = (
    DatasetEntry(name="images", load=Images, num_classes=5),
    DatasetEntry(
        name="unreadable",
        load=lambda split: Images(split, range(COUNT) if split == "train" else ()),
        num_classes=5,
    ),
    DatasetEntry(
        name="untrained",
        load=lambda split: [] if split == "train" else Images(split),
        num_classes=5,
    ),
)


@pytest.fixture
def run(make_manager: MakeManager) -> Run:
    """``run(method, build, timer, settings=…, gates=…)``: the row of ``m`` by the method."""

    def run(
        chosen: IntegerMethod,
        build: Callable[[], nn.Module] = Net,
        timer: Any = untimed,
        gates: Gates | None = None,
        **settings: Any,
    ) -> IntegerRow:
        manager = make_manager({"m": build}, datasets=DATASETS, integer_methods=(chosen,))
        engine = Engine(manager, Settings(**{**OPTIONS, **settings}), gates)
        (case,) = engine.integer_cases(Selection())
        row = engine.run(case, timer)
        assert isinstance(row, IntegerRow)
        return row

    return run


def decibel(signal: np.ndarray, noise: np.ndarray) -> float:
    return 10 * math.log10((signal.astype(np.float64) ** 2).sum() / (noise**2).sum())


def test_row_is_what_numpy_computes(run: Run) -> None:
    row = run(method(), timer=TIMER)
    assert row.outcome == "passed", row.reason
    net = Net()
    w, b, v, c = (p.detach().numpy() for p in (*net.stem.parameters(), *net.head.parameters()))
    stem = Images("test").x.flatten(1).numpy() @ w.T + b
    largest = np.abs(Images("train").x.flatten(1).numpy() @ w.T + b).max()
    r = y = stem
    inputs, branches = [], []
    for place in range(3):
        scale = np.float32(largest / 127 / (place + 1))

        def integers(x: np.ndarray, scale: np.float32 = scale) -> np.ndarray:
            codes = np.rint(x / scale).astype(np.int64)
            return (codes + (np.maximum(codes, 0) >> 1)) * scale

        inputs.append(r)
        branch = np.maximum(r[:4], 0) / 2
        branches.append(decibel(branch, integers(r[:4]) - r[:4] - branch))
        r, y = r + np.maximum(r, 0) / 2, integers(y)
    r, y = r @ v.T + c, y @ v.T + c
    labels = np.arange(COUNT) % 5
    right, now = r.argmax(1) == labels, y.argmax(1) == labels
    assert row.top1 == pytest.approx(100 * now.mean())
    assert row.fp32_top1 == pytest.approx(100 * right.mean())
    assert row.top1_low <= row.top1 <= row.top1_high  # type: ignore[operator]
    assert (row.lost, row.gained) == ((right & ~now).sum(), (~right & now).sum())
    assert row.sqnr_db == pytest.approx(decibel(r, y - r), abs=0.01)
    assert (row.images, row.stage_images, row.batch) == (COUNT, 4, 8)
    assert row.branch_sqnr_db == pytest.approx(min(branches), abs=0.01)
    assert row.branch_sqnr_mean_db == pytest.approx(np.mean(branches), abs=0.01)
    assert row.worst_block == f"blocks.{int(np.argmin(branches))}"
    assert (row.blocks, row.refused_blocks, row.refused) == (3, 0, "")
    assert row.calibration == f"images, {COUNT} images, seed 0"
    assert row.calibration_s is not None
    assert (row.state_bytes, row.fp32_state_bytes) == (3 * (4 + 3 * 2), 3 * 6 * 4)
    assert (row.integer_only, row.structures, row.audited_operations) == (True, 1, 3)
    assert (row.float_operations, row.audited_instructions) == (0, 0)
    assert "dispatch: 0 floats in 3 operations" in row.audits
    assert (row.format, row.method, row.model) == ("int8", "shift", "m")


def test_latencies_are_of_the_block_in_the_middle_and_of_the_model(run: Run) -> None:
    row = run(method(), timer=TIMER)
    assert (row.timed_block, row.timed_batch, row.rounds) == ("blocks.1", 8, 2)
    assert row.threads == torch.get_num_threads()
    for name in ("latency_ms", "block_fp32_ms", "block_bf16_ms", "model_ms", "model_fp32_ms"):
        assert getattr(row, name) > 0, name
    for name in ("speedup_fp32", "speedup_bf16", "model_speedup"):
        assert getattr(row, name) > 0, name
    assert (row.block_bf16_compiled_ms, row.uncompiled) == (None, "left out")


def test_nothing_is_timed_where_timing_is_off(run: Run) -> None:
    row = run(method())
    assert (row.latency_ms, row.speedup_fp32, row.model_ms, row.rounds) == (None, None, None, 0)
    assert row.outcome == "passed"


def test_each_step_of_each_block_has_a_row(run: Run) -> None:
    row = run(method())
    stages = [detail for detail in row.details if isinstance(detail, IntegerStageRow)]
    assert [(s.block, s.stage) for s in stages] == [
        (f"blocks.{block}", stage) for block in range(3) for stage in ("half", "sum", "branch")
    ]
    assert [s.order for s in stages] == list(range(9))
    assert {(s.case, s.model, s.method) for s in stages} == {(row.case, "m", "shift")}
    x = Net().stem(Images("test").x[:4].flatten(1)).detach().numpy()
    scale = float(Shift(1.0).scale) * float(
        Net().stem(Images("train").x.flatten(1)).detach().abs().max() / 127
    )
    half = (np.maximum(np.rint(x / np.float32(scale)).astype(np.int64), 0) >> 1) * scale
    reference = np.maximum(x, 0) / 2
    assert stages[0].sqnr_db == pytest.approx(decibel(reference, half - reference), abs=0.01)
    assert stages[0].max_abs_err == pytest.approx(np.abs(half - reference).max(), rel=1e-3)


def test_refused_blocks_are_listed(run: Run) -> None:
    row = run(method(refused={"blocks.2": "it has a gate"}))
    assert (row.blocks, row.refused_blocks, row.refused) == (2, 1, "blocks.2: it has a gate")
    assert row.outcome == "passed"


def test_inputs_that_are_random_give_drift_and_no_accuracy(run: Run) -> None:
    row = run(method(), dataset="random")
    assert (row.outcome, row.images, row.top1, row.fp32_top1) == ("passed", 16, None, None)
    assert row.calibration == "random, 16 images, seed 0"
    assert row.agreement is not None
    assert row.sqnr_db is not None
    assert run(method(), dataset="random", images=5, integer_calibration=3).images == 5


class Floating(Shift):
    """A shift by way of a float."""

    def forward(self, codes: Tensor) -> Tensor:
        return codes + (codes.clamp(min=0) * 0.5).to(torch.int16)


def test_a_block_that_computes_in_floats_fails(run: Run) -> None:
    row = run(method(Floating))
    assert (row.outcome, row.integer_only) == ("failed", False)
    assert row.float_operations is not None
    assert row.float_operations > 0
    assert "No float operation runs in an integer block; blocks of shift in m have" in row.reason
    assert "aten.mul" in row.reason
    assert "shift is of guest" in row.reason
    assert row.top1 is not None, "what was measured before stays"


class Elsewhere(Shift):
    """Says that it computes in a library, which is not there."""

    def native_libraries(self) -> tuple[Path, ...]:
        return (Path("absent.so"),)


def test_what_cannot_be_audited_leaves_the_proof_open(run: Run) -> None:
    row = run(method(Elsewhere))
    assert (row.outcome, row.integer_only) == ("passed", None)
    assert "not seen: disassembly of absent.so: not run, there is no such file" in row.audits


def test_rules_choose_the_audits(run: Run, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("integer: {audits: [state], float_state: [gain]}")
    row = run(method(Elsewhere), compliance=rules)
    assert (row.integer_only, row.audits) == (True, "state: 0 floats in 2 tensors")
    rules.write_text("integer: {audits: [guess]}")
    with pytest.raises(Exception, match=r"line 1: integer.audits"):
        run(method(), compliance=rules)


class Wider(Shift):
    """Blocks that differ in structure."""

    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self.bits = torch.ones(round(100 * scale) % 7 + 1, dtype=torch.int8)


def test_each_structure_is_audited_once(run: Run) -> None:
    row = run(method(Wider))
    assert row.structures is not None
    assert 1 < row.structures <= 3
    assert row.audited_operations == 3 * row.structures
    assert row.audits.count("dispatch: ") == row.structures


class Branching(Shift):
    """Blocks of one look, of which one takes another path, with a float in it."""

    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        Branching.made += 1
        self.bits[0] = Branching.made

    made = 0

    def forward(self, codes: Tensor) -> Tensor:
        if Branching.made - self.bits.tolist()[0] == 1:
            return codes + (codes.clamp(min=0) * 0.5).to(torch.int16)
        return super().forward(codes)


def test_a_block_that_takes_another_path_is_audited_too(run: Run) -> None:
    row = run(method(Branching))
    assert (row.structures, row.integer_only) == (2, False)
    assert "blocks.1: float aten.mul.Tensor" in row.audits


def test_a_float_model_of_nan_says_so(run: Run) -> None:
    row = run(method(), lambda: Net(head_bias=math.nan))
    assert row.outcome == "failed"
    assert "A float model gives finite logits; 100 of m are NaN" in row.reason


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("unreadable", "Calibration needs an image that can be read; of 20 of the training split"),
        ("untrained", "Calibration reads the training split of 'untrained'. A split that is used"),
    ],
)
def test_calibration_without_images_says_so(run: Run, dataset: str, message: str) -> None:
    row = run(method(), dataset=dataset)
    assert row.outcome == "error"
    assert message in row.reason
    assert row.dataset == dataset


def test_a_model_without_blocks_says_so(run: Run) -> None:
    row = run(method(), lambda: Net(blocks=0))
    assert row.outcome == "error"
    assert "shift converts none of m: it has none" in row.reason


def test_what_a_method_says_is_the_reason(run: Run) -> None:
    def convert(model: nn.Module, batches: Sequence[Tensor]) -> IntegerModel:
        raise ConversionError("Calibration met NaN in blocks.0. Check the weights.")

    row = run(IntegerMethod(name="no", convert=convert, default_models=("m",), default=True))
    assert (row.outcome, row.reason) == (
        "error",
        "Calibration met NaN in blocks.0. Check the weights.",
    )


@pytest.mark.filterwarnings("ignore:memory ran out at 4")
def test_memory_that_runs_out_halves_the_batch(run: Run) -> None:
    inner = method()

    def convert(model: nn.Module, batches: Sequence[Tensor]) -> IntegerModel:
        if len(batches[0]) > 2:
            raise MemoryError
        assert sum(map(len, batches)) == COUNT, "all images are seen all the same"
        return inner.convert(model, batches)

    small = IntegerMethod(name="shift", convert=convert, default_models=("m",), default=True)
    with pytest.warns(RuntimeWarning, match="memory ran out at 8 images"):
        row = run(small)
    assert (row.outcome, row.batch, row.stage_images, row.timed_batch) == ("passed", 2, 2, 2)


class Confused(Shift):
    def stages(self, codes: Tensor) -> Mapping[str, Tensor]:
        return {"whole": codes * self.scale}


def test_steps_without_twins_are_an_error_that_keeps_the_rest(run: Run) -> None:
    row = run(method(Confused))
    assert row.outcome == "error"
    assert "those of Confused are ['whole'] and ['half', 'sum']" in row.reason
    assert row.top1 is not None


def test_a_block_that_the_model_does_not_reach_is_an_error(run: Run) -> None:
    class Skipping(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.blocks[0](self.stem(self.flatten(x))))  # type: ignore[no-any-return]

    row = run(method(), Skipping)
    assert row.outcome == "error"
    assert "blocks.1, blocks.2 of Skipping did not" in row.reason


def test_the_compiled_twin_is_made_once_for_all_methods(
    make_manager: MakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real = [], torch.compile

    def compile(module: nn.Module, **options: Any) -> Any:
        if "options" in options:
            made.append(options)
            options = {"backend": "eager", "fullgraph": True}
        return real(module, **options)

    monkeypatch.setattr(torch, "compile", compile)
    methods = (method(), method(name="again"))
    manager = make_manager({"m": Net}, datasets=DATASETS, integer_methods=methods)
    engine = Engine(manager, Settings(**{**OPTIONS, "compiled_twin": True}))
    rows = [engine.run(case, TIMER) for case in engine.integer_cases(Selection())]
    assert len(rows) == 2
    assert made == [{"fullgraph": True, "dynamic": False, "options": {"freezing": True}}]
    for row in rows:
        assert isinstance(row, IntegerRow)
        assert row.outcome == "passed", row.reason
        assert row.block_bf16_compiled_ms is not None
        assert row.speedup_bf16_compiled is not None
        assert row.uncompiled == ""


def test_a_compiler_that_fails_is_noted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.compile

    def compile(module: nn.Module, **options: Any) -> Any:
        if "options" not in options:
            return real(module, **options)

        def fail(*_: object) -> None:
            raise RuntimeError("no compiler here\nat length")

        return fail

    monkeypatch.setattr(torch, "compile", compile)
    row = run(method(), timer=TIMER, compiled_twin=True)
    assert (row.outcome, row.uncompiled) == ("passed", "RuntimeError: no compiler here")
    assert row.block_bf16_compiled_ms is None
    assert row.speedup_bf16 is not None


class Single(FloatBlock):
    """Float32 alone, and its input by keyword."""

    def forward(self, *, inputs: Tensor) -> Tensor:
        if inputs.dtype != torch.float32:
            raise TypeError("only float32")
        return super().forward(inputs)


class Keyword(Net):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Single() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.flatten(x))
        for block in self.blocks:
            x = block(inputs=x)
        return self.head(x)  # type: ignore[no-any-return]


def test_a_block_may_take_keywords_and_have_no_bfloat16(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rim, "forward", lambda rim, inputs: rim.pass_through(inputs))
    row = run(method(), Keyword, timer=TIMER)
    assert row.outcome == "passed", row.reason
    assert (row.block_bf16_ms, row.uncompiled) == (None, "TypeError: only float32")
    assert row.speedup_fp32 is not None
    assert row.branch_sqnr_db is not None


def test_a_gate_on_the_logits_holds(run: Run, tmp_path: Path) -> None:
    table = tmp_path / "gates.csv"
    table.write_text("table,format,mode,what,min_sqnr_db\nintegers,shift,*,m,300\n")
    row = run(method(), gates=Gates.read(table))
    assert (row.outcome, row.min_sqnr_db) == ("failed", 300)
    assert "sqnr_db of the logits of m by shift is at least 300 dB; got" in row.reason


def test_an_evaluation_that_was_cut_off_goes_on(make_manager: MakeManager, tmp_path: Path) -> None:
    manager = make_manager({"m": Net}, datasets=DATASETS, integer_methods=(method(),))
    engine = Engine(manager, Settings(**OPTIONS, unfinished=tmp_path))
    (case,) = engine.integer_cases(Selection())
    whole = engine.run(case, untimed)
    seen: list[int] = []

    def stop(_: str, done: int, __: int) -> None:
        seen.append(done)
        if done == 16:
            raise KeyboardInterrupt

    engine.progress = stop
    with pytest.raises(KeyboardInterrupt):
        engine.run(case, untimed)
    engine.progress = lambda _, done, __: seen.append(done)
    row = engine.run(case, untimed)
    assert seen == [8, 16, 20]
    assert isinstance(row, IntegerRow)
    assert isinstance(whole, IntegerRow)
    assert (row.images, row.top1, row.sqnr_db) == (whole.images, whole.top1, whole.sqnr_db)
