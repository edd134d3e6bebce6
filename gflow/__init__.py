"""gflow: gradient flow of Equinox models, from tiny initial scales to losses far below 1e-100."""

import importlib

from . import validate as _validate

_validate.require_x64()

from . import (  # noqa: E402
    limits as limits,
    losses as losses,
    metrics as metrics,
    models as models,
    observe as observe,
)
from .clocks import (  # noqa: E402
    decades as decades,
    LogTimeClock as LogTimeClock,
    LossClock as LossClock,
    TimeClock as TimeClock,
)
from .descent import gradient_descent as gradient_descent  # noqa: E402
from .modified import modified as modified  # noqa: E402
from .solve import FlowError as FlowError, FlowInterrupted as FlowInterrupted, gradient_flow as gradient_flow  # noqa: E402
from .solvers import LogRadau as LogRadau  # noqa: E402
from .status import Status as Status  # noqa: E402
from .sweeps import sweep as sweep, SweepError as SweepError, SweepInterrupted as SweepInterrupted  # noqa: E402
from .trajectory import Trajectory as Trajectory  # noqa: E402


def __getattr__(name: str):
    # Arbitrary precision is loaded when it is used.
    if name == "precise":
        return importlib.import_module(".precise", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.1.0"
