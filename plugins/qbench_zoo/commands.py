"""``qbench zoo``: train a model of the zoo, or check its weights against its card."""

from __future__ import annotations

import argparse
from pathlib import Path

from qbench_zoo.architectures import ARCHITECTURES

#: Largest difference in top-1 between a card and a machine: one digit of 500, in points.
TOLERANCE = 0.2


def add_zoo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``zoo train`` and ``zoo evaluate``; each sets ``run`` to a ``(Namespace) -> int``."""
    zoo = commands.add_parser("zoo", help="train or check the models of qbench_zoo")
    actions = zoo.add_subparsers(required=True, metavar="ACTION")
    train = actions.add_parser("train", help="train from scratch; write weights and card")
    _add_name(train)
    train.add_argument("--epochs", type=_positive, metavar="N", help="default: the recipe's")
    train.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    train.add_argument(
        "--threads",
        type=_positive,
        default=1,
        metavar="N",
        help="more are faster but give other bits (default: %(default)s)",
    )
    train.add_argument("--out", type=Path, metavar="FOLDER", help="default: the plugin's folder")
    train.set_defaults(run=_train)
    evaluate = actions.add_parser("evaluate", help="measure the held-out digits again")
    _add_name(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _add_name(parser: argparse.ArgumentParser) -> None:
    choices = (*ARCHITECTURES, "all")
    parser.add_argument("name", choices=choices, metavar="NAME", help=", ".join(choices))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; got {text}")
    return number


def _names(arguments: argparse.Namespace) -> tuple[str, ...]:
    return tuple(ARCHITECTURES) if arguments.name == "all" else (arguments.name,)


def _train(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from qbench_zoo.progress import epochs_shown
    from qbench_zoo.publishing import publish
    from qbench_zoo.training import Recipe
    from qbench_zoo.weights import PACKAGE

    console = Console()
    epochs = arguments.epochs or Recipe().epochs
    recipe = Recipe(epochs=epochs, seed=arguments.seed, threads=arguments.threads)
    for name in _names(arguments):
        with epochs_shown(name, recipe.epochs, console) as report:
            card = publish(ARCHITECTURES[name], recipe, arguments.out or PACKAGE, report)
        print(
            f"{name}: {card.top1:.1f} % of {card.held_out} held-out digits, "
            f"{card.bytes:,} bytes, {card.seconds:.0f} s"
        )
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from qbench_zoo.accuracy import top1
    from qbench_zoo.card import read_card, sha256
    from qbench_zoo.digits import load
    from qbench_zoo.weights import load_model, weights_path

    agree = True
    for name in _names(arguments):
        card = read_card(name)
        measured = top1(load_model(name), load("test"))
        same = sha256(weights_path(name)) == card.sha256
        agree &= same and abs(measured - card.top1) <= TOLERANCE
        note = "" if same else "; these are not the weights the card was written for"
        print(f"{name}: {measured:.1f} % of the held-out digits, card {card.top1:.1f} %{note}")
    return 0 if agree else 1
