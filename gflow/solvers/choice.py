"""Which solvers run when the user names none."""

from typing import Any, NamedTuple

import diffrax
import jax

from ..flow import Flow
from ..losses import MarginLoss
from .log_radau import LogRadau

# Beyond this gamma (or log t) LogRadau is the faster one from the start, where the model has a chart of its own.
_FAR = 500.0
# After so many explicit steps LogRadau takes over: the first number for small networks, the second for large ones,
# whose explicit steps are dear. Its compilation (5 to 10 seconds) is then worth it.
_EXPLICIT_STEPS = 3000
_EXPLICIT_STEPS_LARGE = 300
_LARGE = 20_000
# Largest Newton system, in unknowns, that LogRadau is given unasked.
_LARGEST_SYSTEM = 4000
_LARGEST_SYSTEM_OF_ARRAYS = 600


class Phase(NamedTuple):
    """A solver, and how many steps of the run it may take."""

    solver: Any
    steps: int | None


def choose(flow: Flow, target: float | None) -> tuple[Phase, ...]:
    """The solvers of a run to `target` (gamma or log t; None if it is not known yet), in turn.

    Explicit first, Dormand and Prince's order 8: it compiles in half the time, and to gamma of a few hundred it is as
    fast. Late in training an explicit step is held to a change of gamma of one or two, or far less where data are hard
    to separate, while the number of LogRadau's steps hardly grows; so it takes over when the explicit steps are used
    up, or at once if the run goes far.
    """
    explicit, implicit = diffrax.Dopri8(scan_kind="lax"), LogRadau()
    parameters = jax.eval_shape(flow.chart.coordinates).size
    # More samples than parameters: what is solved for is the parameters.
    # The dual variables of LogRadau are those of the loss itself. Where a sample has many outputs, mostly linear in the
    # last layer, explicit steps are cheap and few.
    largest = _LARGEST_SYSTEM if flow.y.size <= flow.X.shape[0] else _LARGEST_SYSTEM_OF_ARRAYS
    if flow.explicit or implicit.stages * (min(flow.y.size, parameters) + 2) > largest:
        return (Phase(explicit, None),)
    if flow.chart.linear and isinstance(flow.loss, MarginLoss) and target is not None and target > _FAR:
        return (Phase(implicit, None),)
    steps = _EXPLICIT_STEPS if flow.y.size * parameters <= _LARGE else _EXPLICIT_STEPS_LARGE
    return Phase(explicit, steps), Phase(implicit, None)
