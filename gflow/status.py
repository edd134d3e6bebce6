"""How a run ended, in a sentence."""

import enum
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


class Status(enum.IntEnum):
    """Outcome of a run. `sentence` says it in words.

    !!! example

        ```python
        >>> import gflow
        >>> gflow.Status.success.sentence
        'The run reached the stop.'

        ```
    """

    running = 0
    success = 1
    max_steps = 2
    step_too_small = 3
    stationary_start = 4
    settled = 5
    residual_floor = 6
    minimum = 7
    interrupted = 8
    bad_points = 9
    kinks_meet = 10
    no_model = 11
    unverified = 12
    plateau = 13
    seeded = 14
    loss_jumps = 15
    slow = 16
    parallel_samples = 17
    symmetry_broken = 18
    steps_used = 20
    diverged = 21
    left_chart = 22
    bad_step = 23
    loss_underflow = 24

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    Status.running: "The run has not ended.",
    Status.success: "The run reached the stop.",
    Status.max_steps: "The run used up max_steps before the stop; raise max_steps, loosen rtol, or resume it.",
    Status.slow: (
        "The run used up max_steps where the loss hardly changes: on a plateau between saddles, near rest, or where "
        "some samples are never learned and the loss goes to a minimum above zero; start from a larger scale, raise "
        "max_steps, loosen rtol, or resume it; for what other samples do meanwhile stop by time."
    ),
    Status.step_too_small: (
        "The steps shrank to rounding level before the stop: float64 cannot resolve the flow here at this rtol."
    ),
    Status.stationary_start: (
        "The flow cannot leave its start: the gradient there is zero, underflows, or is not finite."
    ),
    Status.settled: (
        "The flow came to rest to rounding: at a stationary point, or on a plateau whose slow exit this solver cannot "
        "resolve."
    ),
    Status.plateau: (
        "The flow is on a plateau between saddles that has lasted 1e17 times as long as what is learned takes to "
        "relax: float64 cannot resolve its exit to the next singular value; start from a larger scale."
    ),
    Status.seeded: (
        "The flow left a plateau along a direction so small there, or grew out of factors that cancel so nearly, that "
        "rounding of the coordinates had a part in it: times from here on are not right to rtol (of descent: to 1e-4); "
        "start from a larger scale, or loosen rtol."
    ),
    Status.loss_jumps: (
        "The modified loss holds the gradient, and jumps where that of this model does, at its kinks: the flow could "
        "not go on there; use a smooth activation."
    ),
    Status.minimum: "The loss cannot fall further: the flow reached the minimum over beta, where the gradient is zero.",
    Status.residual_floor: (
        "The residuals are at rounding level: float64 cannot hold a smaller square loss (1e-27 to 1e-32 of the squared "
        "targets)."
    ),
    Status.bad_points: "The save points and the stop do not increase from the start of the flow; sort them.",
    Status.steps_used: "The descent used up its steps before the stop; raise steps, or resume it.",
    Status.diverged: (
        "The descent diverged: the next step leads to a loss or parameters that are not finite; lower the step size."
    ),
    Status.left_chart: (
        "The next step of the descent carries a weight of the network through zero, which its logarithmic coordinates "
        "cannot hold; lower the step size."
    ),
    Status.loss_underflow: (
        "The loss fell beyond what float64 can hold even as gamma = -log L; the run ends with the last iterate of "
        "which it can be told."
    ),
    Status.bad_step: "The schedule gave a step that is negative or not finite: step must be positive and finite.",
    Status.kinks_meet: (
        "A neuron came to kinks of samples that depend linearly on one another, or began on a kink with an output "
        "weight of zero that nothing moves, where the flow is not followed on; move the data or the start a little."
    ),
    Status.parallel_samples: (
        "Samples that are zero or multiples of one another share their kinks, which is not known of data that are "
        "traced (by jax.jit, jax.vmap or a sweep): let the function hold X as a constant, or call gradient_flow "
        "outside."
    ),
    Status.symmetry_broken: (
        "The start has a symmetry that the exact flow keeps (factors that are each other's transposes, or multiples of "
        "the identity), and rounding has broken it: what was learned since is not right. Outside of jax.jit and "
        "jax.vmap gflow can keep it; or start from a larger scale."
    ),
    Status.no_model: (
        "make_model raised an error or gave no model of the data at this point of the sweep: there was nothing to run."
    ),
    Status.unverified: "The flow reached the stop, but two solutions do not agree to the digits asked for.",
    Status.interrupted: "The run was interrupted; pass resume=<this trajectory> to go on.",
}


def as_code(status: Any) -> Int[Array, ""]:
    """A status inside of compiled code. Not weakly typed, or the next call would compile anew."""
    return jax.lax.convert_element_type(status, jnp.int64)
