"""The policies that ship with the suite: the YAML files beside this module, each a template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from qbench_suite import PolicyEntry, hookimpl

FOLDER = Path(__file__).parent
#: Policies of the default grid.
DEFAULT = frozenset(
    {
        "fp8_e4m3_channel",
        "fp8_e4m3_tensor",
        "fp8_e5m2_tensor",
        "int8_w8a8_static",
        "mxfp4",
        "mxfp8",
        "nvfp4",
        "w4a16",
        "w8a16",
    }
)


@hookimpl
def qbench_register_policies(register: Callable[[PolicyEntry], None]) -> None:
    """Register every YAML file of this folder under its name, with its own description."""
    for path in sorted(FOLDER.glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        register(
            PolicyEntry(
                name=path.stem,
                path=path,
                description=content["description"],
                default=path.stem in DEFAULT,
            )
        )
