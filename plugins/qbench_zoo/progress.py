"""Progress of a training: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: Number of plain lines for one training.
LINES = 10


@contextmanager
def epochs_shown(
    name: str, epochs: int, console: Console
) -> Iterator[Callable[[int, float], None]]:
    """Yield the ``report(epoch, mean loss)`` that shows how far the training of ``name`` is."""
    if not console.is_terminal:
        yield _plain(name, epochs, console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=epochs, loss=float("nan"))
        yield lambda epoch, loss: progress.update(task, completed=epoch, loss=loss)


def _plain(name: str, epochs: int, console: Console) -> Callable[[int, float], None]:
    stride = -(-epochs // LINES)

    def report(epoch: int, loss: float) -> None:
        if epoch % stride == 0 or epoch == epochs:
            console.print(f"{name}: epoch {epoch} of {epochs}, loss {loss:.3f}", highlight=False)

    return report
