"""Studies: what theory claims, computed as `xarray.Dataset`s."""

from .regimes import transition as transition
