"""Sweeps: thousands of flows, on one machine or many. `gflow.sweep` is the front door."""

from .execute import SweepError as SweepError
from .front import sweep as sweep, SweepInterrupted as SweepInterrupted
