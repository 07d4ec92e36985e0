"""A manager that holds this plugin alone."""

from __future__ import annotations

import pytest

import qbench_vision
from qbench_suite.manager import Manager


@pytest.fixture(scope="session")
def manager() -> Manager:
    manager = Manager()
    manager.register(qbench_vision)
    assert not manager.problems
    return manager
