"""The form of a sweep's result, which is the same in memory and on disk."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from .axes import Axis
from .problem import Variable


@dataclass(frozen=True, eq=False)
class Layout:
    """Dimensions, coordinates, variables and attributes; `chunk` is the shape of a chunk of points."""

    axes: tuple[Axis, ...]
    save: np.ndarray
    save_about: dict[str, Any]
    variables: tuple[Variable, ...]
    attributes: dict[str, Any]
    chunk: tuple[int, ...]

    @property
    def dims(self) -> tuple[str, ...]:
        return tuple(axis.name for axis in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis) for axis in self.axes)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def coordinates(self) -> dict[str, Any]:
        along = {axis.name: (axis.name, axis.labels) for axis in self.axes}
        return along | {"save": ("save", self.save, self.save_about)}

    def arranged(self, ds: xr.Dataset) -> xr.Dataset:
        """`ds`, whose axes are sorted, in the order that the user gave."""
        moved = {a.name: a.order for a in self.axes if np.any(np.diff(a.order) < 0)}
        return ds.isel(moved) if moved else ds
