"""What the figures of studies share. Colours are Okabe and Ito's."""

from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")


def panels(count: int, width: float = 4.2) -> Any:
    """A figure with `count` panels side by side, each `width` inches wide, and its axes (1, count)."""
    import matplotlib.pyplot as plt

    return plt.subplots(1, count, figsize=(width * count, 3.6), layout="constrained", squeeze=False)
