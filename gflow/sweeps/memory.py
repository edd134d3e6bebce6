"""The result of a sweep without a store: arrays in memory."""

from typing import Any

import numpy as np
import xarray as xr

from .chunks import Chunk
from .layout import Layout


class InMemory:
    """Arrays that are filled chunk by chunk."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.arrays = {v.name: v.empty(layout.shape) for v in layout.variables}

    def holds(self, chunk: Chunk) -> bool:
        return False

    def write(self, chunk: Chunk, values: dict[str, np.ndarray]) -> None:
        for name, value in values.items():
            self.arrays[name][chunk.region] = value

    def dataset(self) -> xr.Dataset:
        variables: dict[str, Any] = {
            v.name: ((*self.layout.dims, *v.dims), self.arrays[v.name], v.about) for v in self.layout.variables
        }
        return self.layout.arranged(xr.Dataset(variables, self.layout.coordinates(), self.layout.attributes))
