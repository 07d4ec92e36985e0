"""The subcommands of ``qbench``, one a module; each adds itself by ``add(commands)``."""
