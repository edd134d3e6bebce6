from .potentials import h as h, h_inverse as h_inverse, h_inverse_pair as h_inverse_pair, q as q, q_conjugate as q_conjugate
from .separability import Separation as Separation, separation as separation
