"""Root of the suite: everything is in ``qbench_suite.pytest_plugin``, which tox.ini loads."""
