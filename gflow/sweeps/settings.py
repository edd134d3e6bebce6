"""Settings of JAX that change numbers. They belong to a process or a thread, and go along with the problem."""

import contextlib
from collections.abc import Iterator

import jax

_NAMES = (
    "default_matmul_precision",
    "default_prng_impl",
    "enable_custom_prng",
    "high_dynamic_range_gumbel",
    "random_seed_offset",
    "softmax_custom_jvp",
    "threefry_partitionable",
)


def current() -> dict[str, str | int | bool | None]:
    """The settings here and now, by name; None for what this JAX does not know."""
    return {name: getattr(jax.config, f"jax_{name}", None) for name in _NAMES}


@contextlib.contextmanager
def applied(wanted: dict[str, str | int | bool | None]) -> Iterator[None]:
    """Raises RuntimeError where a setting differs that only a whole process can have."""
    with contextlib.ExitStack() as stack:
        for name, value in current().items():
            if value == wanted[name]:
                continue
            if not hasattr(jax, name):
                raise RuntimeError(
                    f"jax_{name} is {value} in the worker and {wanted[name]} in the process that called sweep; start "
                    f"both with JAX_{name.upper()} in the environment, or pass workers=0."
                )
            stack.enter_context(getattr(jax, name)(wanted[name]))
        yield
