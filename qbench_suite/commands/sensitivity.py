"""``qbench sensitivity``: which layers cost how much, and a mixed-precision policy within a budget."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qbench_suite.commands.policy import Row, add_plugin_options, print_table
from qbench_suite.errors import SelectionError

if TYPE_CHECKING:
    from qbench_suite.convert.policy import Policy
    from qbench_suite.engine.effects import Effect
    from qbench_suite.engine.layer_sensitivity import LayerSensitivity
    from qbench_suite.engine.sensitivity import Choice, Sensitivity
    from qbench_suite.manager import Manager

#: Exit status of a command that was interrupted.
INTERRUPTED = 130
_FILE = "sensitivity.csv"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``qbench sensitivity MODEL``."""
    command = commands.add_parser(
        "sensitivity", help="which layers of a model cost how much accuracy"
    )
    command.add_argument("model", metavar="MODEL", help="as `qbench list models` names it")
    command.add_argument(
        "--policy",
        required=True,
        metavar="POLICY",
        help="a name, the path of a YAML file, or format-mode",
    )
    command.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="POLICY",
        help="measure the layers by it too",
    )
    command.add_argument("--data", metavar="DATASET", help="default: the model's own")
    command.add_argument("--images", type=_positive, metavar="N", help="default: all held out")
    command.add_argument("--batch", type=_positive, default=32, metavar="N", help="default: 32")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    command.add_argument("--device", default="cpu", metavar="DEVICE", help="default: cpu")
    command.add_argument("--top", type=_positive, default=20, metavar="N", help="rows shown (20)")
    command.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER")
    mix = command.add_argument_group("mixed precision")
    mix.add_argument(
        "--bits", type=_bits, metavar="B", help="mean bits of a weight, scales included"
    )
    mix.add_argument(
        "--candidates", default="", metavar="POLICIES", help="comma list; default: all those above"
    )
    mix.add_argument(
        "--keep",
        choices=("float", "policy"),
        help="what other layers are while a candidate is tried at one (default: float)",
    )
    mix.add_argument("--out", type=Path, metavar="FILE.yaml", help="where the policy goes")
    add_plugin_options(command)
    command.set_defaults(run=_run)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; got {text}")
    return int(text)


def _bits(text: str) -> float:
    try:
        bits = float(text)
    except ValueError:
        bits = math.nan
    if not (math.isfinite(bits) and bits > 0):
        raise argparse.ArgumentTypeError(f"must be a number above 0; got {text}")
    return bits


def _run(options: argparse.Namespace) -> int:
    try:
        _measure(options)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    return 0


def _measure(options: argparse.Namespace) -> None:
    from qbench_suite.engine import Engine, Settings
    from qbench_suite.engine.candidate import candidate_policy
    from qbench_suite.engine.grid import case_id
    from qbench_suite.engine.proposal import require_budget
    from qbench_suite.engine.sensitivity import Sensitivity
    from qbench_suite.manager import default_manager

    _require_bits(options)
    manager = default_manager(disabled=options.disable_plugin, files=options.plugin)
    ranked = [candidate_policy(name, manager) for name in (options.policy, *options.against)]
    mixed = [
        candidate_policy(name, manager) for name in filter(None, options.candidates.split(","))
    ] or ranked
    settings = Settings(
        seed=options.seed,
        device=options.device,
        dataset=options.data,
        images=options.images,
        eval_batch=options.batch,
    )
    folder = options.results / "sensitivity" / case_id(options.model, ranked[0].name)
    policies = [*ranked, *(mixed if options.bits is not None else [])]
    if options.bits is not None:
        _require_output(options, policies, manager)
    measured = Sensitivity(Engine(manager, settings), options.model, policies, folder)
    names = list(dict.fromkeys(policy.name for policy in ranked))
    candidates = list(dict.fromkeys(policy.name for policy in mixed))
    if options.bits is not None:
        require_budget(measured, candidates, options.bits)
    mix = [candidates, options.keep] if options.bits is not None else []
    folder /= measured.key(names + (candidates if mix else []), names, *mix)
    _rank(measured, names, folder, options.top)
    if options.bits is not None:
        _mix(measured, candidates, names[0], folder, options)


def _require_bits(options: argparse.Namespace) -> None:
    """Raise for options of a mix without ``--bits``, which asks for one."""
    named = ("out", "candidates", "keep")
    given = [f"--{name}" for name in named if getattr(options, name)]
    if given and options.bits is None:
        raise SelectionError(
            f"A mixed-precision policy is made for a budget; got {', '.join(given)} without --bits. Add "
            f"--bits, or leave out {', '.join(given)}."
        )


def _require_output(
    options: argparse.Namespace, policies: Sequence[Policy], manager: Manager
) -> None:
    """Raise where the proposal could not be written, or would have the place of what is given."""
    from qbench_suite.engine.proposal import require_output

    words = [options.policy, *options.against, *options.candidates.split(",")]
    named = [word.strip() for word in words]
    files = [manager.policies.get(name).path for name in named if name in manager.policies]
    # Without --out it goes to a folder of its own.
    out, make = options.out or Path(_default_name(options.bits)), options.out is not None
    require_output(out, {p.name for p in policies}, [*files, *options.plugin], make=make)


def _default_name(bits: float) -> str:
    return f"mixed_{bits:g}.yaml"


def _rank(measured: Sensitivity, names: Sequence[str], folder: Path, top: int) -> None:
    from qbench_suite.engine.layer_sensitivity import write_layers

    choices = [choice for name in names for choice in measured.layer_choices(name)]
    with _progress("layers") as report:
        measured.measure(choices, report)
    found = {name: measured.layers(name) for name in names}
    write_layers(folder / _FILE, [layer for layers in found.values() for layer in layers])
    for name, layers in found.items():
        print(f"{name}: the layers that cost most by themselves, by KL against the float model")
        print(_settings(measured, name))
        print_table(layer_rows(layers, top))
        print(_summary(measured, {}, "float"))
        print(_summary(measured, measured.whole(name), name))
        print()
    print(f"all layers: {folder / _FILE}")


def _settings(measured: Sensitivity, name: str) -> str:
    digest, images = measured.candidates[name].policy.digest, measured.effect({}).images
    seed = measured.engine.settings.seed
    return f"{images} images of {measured.subject.dataset}, seed {seed}, policy {digest}"


def layer_rows(layers: Sequence[LayerSensitivity], top: int) -> list[Row]:
    """The first ``top`` of them, most KL first, with a heading; ``rank_top1`` by drop of top-1."""
    drops = [layer.top1_drop_only for layer in layers if layer.top1_drop_only is not None]
    rows: list[Row] = [
        (
            *("layer", "type", "multiply_adds", "weight_elements", "kl_only", "top1_only"),
            *("rank_top1", "kl_left_out", "top1_left_out", "kl_saved"),
        )
    ]
    for a in layers[:top]:
        drop = a.top1_drop_only
        rank = "" if drop is None else str(1 + sum(other > drop for other in drops))
        sizes = (f"{a.multiply_adds:,}", f"{a.weight_elements:,}")
        without = (_small(a.kl_left_out), _percent(a.top1_left_out), _small(a.kl_saved))
        only = (_small(a.kl_only), _percent(a.top1_only), rank)
        rows.append((a.layer, a.layer_type, *sizes, *only, *without))
    return rows


def _mix(
    measured: Sensitivity,
    candidates: Sequence[str],
    base: str,
    folder: Path,
    options: argparse.Namespace,
) -> None:
    from qbench_suite.convert.policy import read_policy
    from qbench_suite.engine.proposal import (
        policy_name,
        policy_text,
        propose,
        trials,
        write_policy,
    )

    rest = measured.whole(base) if options.keep == "policy" else {}
    tried = trials(measured, candidates, rest)
    uniform = [measured.whole(name) for name in candidates]
    with _progress("candidates") as report:
        measured.measure([*uniform, *(c for by in tried.values() for c in by.values())], report)
    choice = propose(measured, candidates, rest, options.bits)
    out = options.out or folder / _default_name(options.bits)
    mean = measured.mean_bits(choice)
    notes = [
        f"{options.model} at {mean:.3f} bits a weight, by qbench sensitivity",
        f"Candidates: {', '.join(candidates)}; budget {options.bits:g} bits.",
        f"Measured on {measured.effect({}).images} images of {measured.subject.dataset}.",
    ]
    write_policy(out, policy_text(measured, choice, policy_name(out), notes))
    proposal = read_policy(out)
    measured.add(proposal)
    print_table(_comparison(measured, candidates, proposal.name))
    print(f"policy: {out}")


def _comparison(measured: Sensitivity, candidates: Sequence[str], proposal: str) -> list[Row]:
    rows: list[Row] = [("policy", "bits a weight", "top1", "KL")]
    rows.append(_compared(measured, "float", {}))
    rows += [_compared(measured, name, measured.whole(name)) for name in candidates]
    return [*rows, _compared(measured, proposal, measured.whole(proposal))]


def _compared(measured: Sensitivity, name: str, choice: Choice) -> Row:
    effect, bits = measured.effect(choice), measured.mean_bits(choice)
    return name, "" if bits is None else f"{bits:.3f}", _percent(effect.top1), _small(effect.kl)


def _summary(measured: Sensitivity, choice: Choice, name: str) -> str:
    effect: Effect = measured.effect(choice)
    top1 = f", top-1 {_percent(effect.top1)} %" if effect.top1 is not None else ""
    return f"{name}, whole: KL {_small(effect.kl)}{top1} ({effect.images} images)"


def _small(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what)
        yield lambda done, of: bar.update(task, completed=done, total=of)
