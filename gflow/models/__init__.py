"""Equinox modules of the papers."""

from .diagonal import DiagonalNetwork as DiagonalNetwork
from .factorization import MatrixFactorization as MatrixFactorization
from .linear import LinearModel as LinearModel
from .two_layer import ReLUNeuron as ReLUNeuron, TwoLayerNetwork as TwoLayerNetwork
