"""Which solvers run when the user names none."""

from typing import Any

import diffrax

from ..flow import Flow
from ..losses import MarginLoss
from .log_radau import LogRadau

# An explicit run that has not ended after so many steps is stiff: from here LogRadau is cheaper, compilation included.
EXPLICIT_STEPS = 3000
# Largest Newton system, in unknowns, that LogRadau is given unasked.
_LARGEST_SYSTEM = 4000


def choose(flow: Flow) -> tuple[Any, ...]:
    """The solvers of a run, in turn: Dormand and Prince's order 8, and for the classification losses LogRadau after
    `EXPLICIT_STEPS` steps.

    Late in training an explicit step is held to a change of gamma of about two, or far less where data are hard to
    separate (2e-4 on breast-cancer), while LogRadau needs some thirty steps to a loss of 1e-1000 either way. On easy
    data the explicit solver is as cheap, and its compilation shorter.
    """
    explicit = diffrax.Dopri8(scan_kind="lax")
    implicit = LogRadau()
    unknowns = implicit.stages * (min(flow.y.shape[0], flow.chart.coordinates().size) + 2)
    if isinstance(flow.loss, MarginLoss) and unknowns <= _LARGEST_SYSTEM:
        return explicit, implicit
    return (explicit,)
