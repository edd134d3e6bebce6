"""Where theory says that the gradient flow of diagonal linear networks goes.

| limit | function |
|---|---|
| alpha^D / gamma -> infinity (kernel regime) | `l2_max_margin` |
| alpha^D / gamma -> 0, depth 2, and depth > 2 where the path heads for it | `l1_max_margin` |
| alpha -> infinity at alpha^D / gamma = mu | `irreversible_path`, equal to `q_max_margin` while no sample leaves |
| gamma -> infinity at fixed alpha | a point of zero `kkt_residual` |

with gamma = -log L and beta / gamma compared with `beta`, for labels in {-1, +1} and rows y_n x_n. The problems are
solved in float64, by NumPy and SciPy alone.
"""

from . import factorization as factorization, potentials as potentials
from .irreversible import irreversible_path as irreversible_path
from .kkt import excess_l1 as excess_l1, excess_l2 as excess_l2, kkt_residual as kkt_residual
from .l1 import l1_max_margin as l1_max_margin
from .l2 import l2_max_margin as l2_max_margin
from .q_path import q_max_margin as q_max_margin
from .result import (
    IrreversiblePath as IrreversiblePath,
    L1MaxMargin as L1MaxMargin,
    MaxMargin as MaxMargin,
)
from .separability import Separation as Separation, separation as separation
