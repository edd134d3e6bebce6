"""What the user counts in: accuracy, time, or log-time.

gamma = -log L and t both grow strictly along a gradient flow, so either may say where to stop and what to save. The
integrator does not step in them (see `gflow.flow`); it finds where they are passed.
"""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class AbstractClock(eqx.Module):
    """A coordinate that grows along the flow. `inner` maps it to gamma (`counts_loss`) or to log t."""

    counts_loss: ClassVar[bool]
    label: ClassVar[str]

    @abc.abstractmethod
    def inner(self, coordinate: Float[Array, "..."]) -> Float[Array, "..."]: ...


class LossClock(AbstractClock):
    """Counts accuracy: the coordinate is gamma = -log L, in nats. `gflow.decades` gives it in decades.

    !!! example

        ```python
        >>> import gflow
        >>> gflow.LossClock().counts_loss
        True

        ```
    """

    counts_loss: ClassVar[bool] = True
    label: ClassVar[str] = "-log L"

    def inner(self, coordinate):
        return jnp.asarray(coordinate)


class TimeClock(AbstractClock):
    """Counts physical time t of the flow d theta / dt = -grad L.

    !!! example

        ```python
        >>> import gflow
        >>> float(gflow.TimeClock().inner(1.0))  # log t
        0.0

        ```
    """

    counts_loss: ClassVar[bool] = False
    label: ClassVar[str] = "t"

    def inner(self, coordinate):
        return jnp.log(jnp.asarray(coordinate))


class LogTimeClock(AbstractClock):
    """Counts log(1 + t), which reaches times that overflow.

    !!! example

        ```python
        >>> import gflow
        >>> float(gflow.LogTimeClock().inner(1e4))  # t = e^10000
        10000.0

        ```
    """

    counts_loss: ClassVar[bool] = False
    label: ClassVar[str] = "log(1+t)"

    def inner(self, coordinate):
        c = jnp.asarray(coordinate)
        return c + jnp.log(-jnp.expm1(-c))


def decades(k):
    """k ln 10: the coordinate of `LossClock` at which the loss is 10^-k.

    **Arguments:**

    - `k`: number of decades, a number or an array.

    **Returns:** gamma in nats, of the type of `k` (a float for a number).

    !!! example

        ```python
        >>> import gflow
        >>> gflow.decades(1000)
        2302.585092994046

        ```
    """
    return k * math.log(10.0)
