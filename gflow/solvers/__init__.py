"""Step control that knows no absolute floor, and the choice between solvers."""

from .choice import choose as choose, Phase as Phase
from .control import first_step as first_step, StepControl as StepControl
from .log_radau import FlowTerm as FlowTerm, LogRadau as LogRadau
