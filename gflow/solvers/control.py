"""Step-size control on a scale-free measure of the error.

Diffrax's controllers compare an error with atol + rtol |y|. Any atol freezes a small initialization, so here the error
is measured by `Flow.error` and only its ratio to the tolerance reaches Diffrax's PID controller.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..flow import Flow

_PID = diffrax.PIDController(rtol=0.0, atol=1.0, norm=jnp.abs, pcoeff=0.3, icoeff=0.4, safety=0.9)
# Steps aim below the tolerance, so that what accumulates over a run stays below a few times rtol.
_SAFETY = 0.25
# The growth allowed to the step after a rejected one: what stopped that one, a kink or a corner, is still ahead.
_AFTER_REJECTION = 1.5


class StepControl(eqx.Module):
    """Scale-free PI control at relative tolerance `rtol`."""

    rtol: Float[Array, ""]

    def init(self, terms: Any, h: Array, order: int) -> Any:
        zero = jnp.zeros(())
        pid = _PID.init(terms, zero, zero + h, zero, h, None, lambda terms, t, y, args: y, order)[1]
        return pid, jnp.asarray(False)

    def adapt(self, error: Float[Array, ""], h: Array, order: int, state: Any):
        """Whether to keep a step with this relative error, the next step size, and the controller's state."""
        size = jax.lax.stop_gradient(error / (_SAFETY * self.rtol))
        size = jnp.where(jnp.isfinite(size), size, jnp.inf)
        zero = jnp.zeros(())
        state, tried = state
        keep, next_t0, next_t1, _, state, _ = _PID.adapt_step_size(
            zero, h, zero, zero, None, size, order, state
        )
        h_next = next_t1 - next_t0
        h_next = jnp.where(keep & tried, jnp.minimum(h_next, _AFTER_REJECTION * h), h_next)
        return keep, h_next, (state, ~keep)


def first_step(flow: Flow, a: Float[Array, " P"]) -> Float[Array, ""]:
    """A first step that moves neither the coordinates nor the weights of the samples by more than a hundredth."""
    rate = flow.rate(a)
    outputs, df = jax.jvp(lambda b: flow.chart.outputs(b, flow.X), (a,), (rate.coordinates,))
    c = flow.loss.weights(outputs, flow.y)
    turn = c.size * jnp.max(jnp.abs(c * df))
    return jax.lax.stop_gradient(0.01 / (1.0 + turn))
