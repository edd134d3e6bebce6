"""Which solvers run when the user names none."""

from typing import Any

import diffrax

from ..flow import Flow
from ..losses import MarginLoss
from .log_radau import LogRadau

# After so many explicit steps it is asked how many more there will be; where that is beyond the second number, LogRadau
# takes over: its compilation (seconds) is then worth it.
EXPLICIT_STEPS = 3000
_WORTH_WHILE = 25_000
# Largest Newton system, in unknowns, that LogRadau is given unasked.
_LARGEST_SYSTEM = 4000


def choose(flow: Flow) -> tuple[Any, ...]:
    """The solvers of a run, in turn: Dormand and Prince's order 8, and for the classification losses LogRadau where
    that turns out stiff (see `explicit_steps`).

    Late in training an explicit step is held to a change of gamma of one or two, or far less where data are hard to
    separate (2e-4 on breast-cancer), while LogRadau needs 30 to 90 steps to a loss of 1e-1000 either way. On easy data
    the explicit solver takes a tenth of a second, and less to compile.
    """
    explicit = diffrax.Dopri8(scan_kind="lax")
    implicit = LogRadau()
    unknowns = implicit.stages * (min(flow.y.shape[0], flow.chart.coordinates().size) + 2)
    if isinstance(flow.loss, MarginLoss) and unknowns <= _LARGEST_SYSTEM:
        return explicit, implicit
    return (explicit,)


def explicit_steps(taken: int, here: float, stop: float) -> int:
    """Up to how many steps the explicit solver may go, after `taken` of them have brought gamma (or log t) to `here`.

    Late in a run the number of explicit steps grows in proportion to gamma.
    """
    if taken < EXPLICIT_STEPS or not 0 < here < stop or taken * stop / here > _WORTH_WHILE:
        return EXPLICIT_STEPS
    return _WORTH_WHILE
