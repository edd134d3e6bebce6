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
    "irreversible path and not the Q_mu max margin. Data: set k is N = 4 Gaussian samples in d = 6 dimensions with the "
    "labels of a random Gaussian direction, drawn by NumPy's default_rng(k); the 200 random sets are k = 0 to 199, "
    "the counterexample is set 33; 'Gaussian' and 'sparse teacher' of the phase diagram have N = 3, d = 6 and N = 10, "
    "d = 30, the latter labels of a direction with three nonzero entries. Of the square loss N = 4, d = 6: the "
    "targets are those of a Gaussian direction, or of one with two nonzero entries. A prediction a ± b holds if all "
    "measurements are within b of a; b is chosen by hand, for the finite ranges that are run.",
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
