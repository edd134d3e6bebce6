"""Implicit bias in two-layer leaky ReLU networks on nearly orthogonal data, output weights fixed.

Frei, Vardi, Bartlett, Srebro and Hu 2023 (arXiv 2210.07082), and Kou, Chen and Gu 2023 (arXiv 2310.18935). The flow and
its limit are in `leaky_relu_flow`, gradient descent from random weights in `leaky_relu_descent`,
for the samples that `leaky_relu_span` makes and in their span.
"""

from . import leaky_relu_descent, leaky_relu_flow
from .report import Study

STUDY = Study(
    name="leaky-relu",
    title="Implicit bias in leaky ReLU networks on nearly orthogonal data",
    source="After S. Frei, G. Vardi, P. Bartlett, N. Srebro and W. Hu, ICLR 2023, arXiv 2210.07082, and Y. Kou, Z. "
    "Chen and Q. Gu, NeurIPS 2023, arXiv 2310.18935. The closed form of the limit was derived for this study.",
    summary="The flow of a two-layer leaky ReLU network with fixed output weights tends to a network of rank two "
    "with a linear decision boundary and equal margins. "
    "The flow is followed to t = e^1000 and compared with the closed form; "
    "the condition on the data is scanned until the conclusion breaks. Gradient descent from small random weights "
    "reduces the stable rank in one step and keeps it low; from large ones it does not.",
    parts=(*leaky_relu_flow.PARTS, *leaky_relu_descent.PARTS),
)
