"""Quantities that are read along a flow: margins, the tangent kernel, conserved quantities, distance to a KKT point,
and spectra.

Every function takes `(model, X, y)` or `(model)` first and options by keyword. So it can be called on a model, or be
evaluated at the saves of a flow, options being set by `functools.partial`:

    gradient_flow(model, X, y, ..., metrics={"margin": margin, "change": partial(kernel_change, reference=model)})

For many saved models at once use `equinox.filter_vmap(lambda model: margin(model, X, y))(traj.model)`.

theta stands for the trained parameters: every floating-point array of the module, and for `DiagonalNetwork` the
weights u = (u_+, u_-), of which it stores logarithms. Their u^depth may lie outside float64 (depth 10 at scale 1e-60),
so whatever does not depend on the scale is computed from log u.
"""

from .conserved import balancedness as balancedness
from .kernels import (
    kernel_change as kernel_change,
    kernel_distance as kernel_distance,
    tangent_kernel as tangent_kernel,
)
from .kkt import kkt_residual as kkt_residual, KKTResidual as KKTResidual
from .margins import (
    margin as margin,
    normalized_margin as normalized_margin,
    normalized_smoothed_margin as normalized_smoothed_margin,
    smoothed_margin as smoothed_margin,
)
from .spectra import (
    effective_rank as effective_rank,
    hessian_ends as hessian_ends,
    HessianEnds as HessianEnds,
    nuclear_norm as nuclear_norm,
    sharpness as sharpness,
    singular_values as singular_values,
    stable_rank as stable_rank,
)
