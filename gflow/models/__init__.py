"""Equinox modules of the papers."""

from .diagonal import DiagonalNetwork as DiagonalNetwork
from .linear import LinearModel as LinearModel
from .two_layer import ReLUNeuron as ReLUNeuron, TwoLayerNetwork as TwoLayerNetwork
