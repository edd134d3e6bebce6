"""Whether a solver that does not know of kinks chatters: where a flow slides along one, its steps cross it to and fro,
and its error estimates mean nothing. Seen on the velocity, which jumps there, from one step to the next.
"""

from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..flow import Flow

# Steps that are looked at, and attempts at them.
_STEPS, _ATTEMPTS = 16, 80
# A jump is looked for in so many intervals, in the one where the velocity changes most, and so on: what is smooth
# changes by 30^-3 of it in the end.
_INTERVALS, _ROUNDS = 32, 3
_JUMP = 0.1
_ROUNDING = 1e-7
# The cosine of a jump and that on the way back.
_BACK = -0.9


def chatters(flow: Flow, position: Any, attempt: Callable[[Any], Any]) -> bool:
    """Whether of the next steps from `position` one crosses a kink and a later one crosses it back. `attempt` takes a
    step, or rejects it."""
    places = [position.state[:-1]]
    for _ in range(_ATTEMPTS):
        after = attempt(position)
        if int(after.steps) > int(position.steps):
            places.append(after.state[:-1])
        position = after
        if len(places) > _STEPS:
            break
    jumps = [np.asarray(_jump(flow, *pair)) for pair in pairwise(places)]
    jumps = [jump / np.linalg.norm(jump) for jump in jumps if np.any(jump)]
    return any(one @ other < _BACK for one, other in combinations(jumps, 2))


@eqx.filter_jit
def _jump(flow: Flow, a: Float[Array, " P"], b: Float[Array, " P"]) -> Float[Array, " P"]:
    """By which the velocity jumps on the way from `a` to `b`; zero if it does not."""
    velocity = jax.vmap(lambda x: flow.rate(a + x * (b - a)).coordinates)
    low, high = jnp.zeros(()), jnp.ones(())
    first = velocity(jnp.linspace(low, high, _INTERVALS + 1))
    whole, jump = jnp.max(jnp.abs(first - first[:1])), first[0]
    for _ in range(_ROUNDS):
        x = jnp.linspace(low, high, _INTERVALS + 1)
        changes = jnp.diff(velocity(x), axis=0)
        most = jnp.argmax(jnp.max(jnp.abs(changes), axis=1))
        low, high, jump = x[most], x[most + 1], changes[most]
    size = jnp.max(jnp.abs(jump))
    return jnp.where((size > _JUMP * whole) & (size > _ROUNDING * jnp.max(jnp.abs(first))), jump, 0.0)
