"""What a policy plugin registers: the file that says what of a model is quantized to what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PolicyEntry:
    """A policy by name; it is read when a model is converted by it, not before."""

    #: Name in case ids, made of ``[A-Za-z0-9_.+:/]``.
    name: str
    #: The YAML file.
    path: Path
    #: One line for ``qbench list policies``.
    description: str = ""
    #: Whether the default grid holds it.
    default: bool = False
