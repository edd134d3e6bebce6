"""gflow: gradient flow of Equinox models, from tiny initial scales to losses far below 1e-100."""

import importlib
from typing import TYPE_CHECKING

from . import validate as _validate

_validate.require_x64()

from . import losses as losses, metrics as metrics, models as models, observe as observe  # noqa: E402
from .clocks import (  # noqa: E402
    decades as decades,
    LogTimeClock as LogTimeClock,
    LossClock as LossClock,
    TimeClock as TimeClock,
)
from .descent import gradient_descent as gradient_descent  # noqa: E402
from .interrupts import compiling_undisturbed as _compiling_undisturbed  # noqa: E402
from .modified import modified as modified  # noqa: E402
from .run import FlowError as FlowError, FlowInterrupted as FlowInterrupted  # noqa: E402
from .solve import gradient_flow as gradient_flow  # noqa: E402
from .solvers import LogRadau as LogRadau  # noqa: E402
from .status import Status as Status  # noqa: E402
from .trajectory import Trajectory as Trajectory  # noqa: E402

if TYPE_CHECKING:
    from . import limits as limits, precise as precise
    from .sweeps import sweep as sweep, SweepError as SweepError, SweepInterrupted as SweepInterrupted

# Loaded when they are used: they need SciPy's optimizers, xarray or mpmath, which take longer to import than gflow.
_LATER = {
    "limits": "limits",
    "precise": "precise",
    "sweep": "sweeps",
    "SweepError": "sweeps",
    "SweepInterrupted": "sweeps",
}


def __getattr__(name: str):
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _compiling_undisturbed():
        module = importlib.import_module(f".{_LATER[name]}", __name__)
    return module if name == _LATER[name] else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


__version__ = "0.1.0"
