"""Studies: what theory claims, computed as `xarray.Dataset`s."""

from .transition import transition as transition
