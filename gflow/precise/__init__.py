"""Gradient flows in arbitrary precision, to losses of 10^(-10^100) and beyond, with verified digits."""

from .bridges import from_model as from_model, to_model as to_model
from .diagonal import diagonal_flow as diagonal_flow
from .exact import decades as decades
from .flow import flow as flow, PreciseFlow as PreciseFlow
from .result import PreciseTrajectory as PreciseTrajectory
