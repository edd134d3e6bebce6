"""Diagonal linear networks between initialization scale and accuracy: the founding paper, reproduced and questioned.

Moroshko, Gunasekar, Woodworth, Lee, Srebro & Soudry 2020 (arXiv 2007.06738). One module for each question; each holds
its parts, of which `gflow reproduce diagonal` makes a page.
"""

from ..report import Study
from . import (
    accuracy,
    depth,
    descent,
    explorer,
    horizon,
    interpolation,
    irreversible,
    logistic,
    phases,
    regimes,
    stability,
    stochastic,
)

STUDY = Study(
    name="diagonal",
    title="Implicit bias in deep linear classification: initialization scale vs training accuracy",
    source="After E. Moroshko, S. Gunasekar, B. Woodworth, J. D. Lee, N. Srebro and D. Soudry, NeurIPS 2020, "
    "arXiv 2007.06738, and work on the same model.",
    summary="Diagonal linear networks of depth D, beta = u_+^D - u_-^D, trained by gradient flow from u = alpha until "
    "the loss is e^-gamma. Theory places beta / gamma between the l2 and the l1 max margin by mu = alpha^D / gamma. "
    "Here this is measured. On data where a sample leaves the margin as mu falls, the limit of large scales is an "
    "irreversible path and not the Q_mu max margin.",
    parts=(
        *regimes.PARTS,
        *irreversible.PARTS,
        *accuracy.PARTS,
        *phases.PARTS,
        *depth.PARTS,
        *logistic.PARTS,
        *descent.PARTS,
        *interpolation.PARTS,
        *stochastic.PARTS,
        *stability.PARTS,
        *horizon.PARTS,
        *explorer.PARTS,
    ),
)
