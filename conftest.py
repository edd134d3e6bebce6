"""Settings for the tests in tests/ and for the examples in gflow's docstrings."""

import os

# Before any import of gflow or matplotlib: examples that draw must not look for a screen.
os.environ["MPLBACKEND"] = "Agg"

import hypothesis
import jax

jax.config.update("jax_enable_x64", True)

# Stricter than users run it: no silent change of shape or precision inside gflow.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_runtest_teardown():
    """Thousands of programs in one process are more than Linux maps for it."""
    from gflow.memory_maps import make_room

    make_room()


hypothesis.settings.register_profile("gflow", derandomize=True, deadline=None)
hypothesis.settings.load_profile("gflow")
