"""Which solver runs when the user names none."""

from typing import Any

import diffrax

from ..flow import Flow
from ..losses import MarginLoss
from ..models.diagonal import LogarithmicChart
from .log_radau import LogRadau


def choose(flow: Flow) -> Any:
    """LogRadau for the classification losses on diagonal networks, Dormand and Prince's order 8 for all else.

    Late in training an explicit step is held to a change of gamma of about two, or far less where data are hard to
    separate (2e-4 on breast-cancer), while LogRadau needs some thirty steps to a loss of 1e-1000 either way.
    """
    if isinstance(flow.loss, MarginLoss) and isinstance(flow.chart, LogarithmicChart):
        return LogRadau()
    return diffrax.Dopri8(scan_kind="lax")
