"""Ctrl-C while XLA compiles.

jaxlib 0.10 lets a compilation that Ctrl-C interrupts go on in a thread of its own, whose inputs are gone: some seconds
later the process crashes, a notebook with it. And one that comes during a garbage collection is lost in JAX's callback.
Here Ctrl-C waits until either has ended.
"""

import _thread
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

_DEAF = tuple(os.path.join("jax", "_src", *place) for place in (("compiler.py",), ("lib", "__init__.py")))
# Seconds after which a Ctrl-C that waits is tried again.
_AGAIN = 0.1


@contextlib.contextmanager
def compiling_undisturbed() -> Iterator[None]:
    """Whoever has a handler of their own keeps it."""
    own = threading.current_thread() is not threading.main_thread()
    if own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _heard)
    try:
        yield
    finally:
        # What runs inside may have come to ignore it.
        if signal.getsignal(signal.SIGINT) is _heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _heard(number: int, frame: Any) -> None:
    if frame is None or not frame.f_code.co_filename.endswith(_DEAF):
        signal.default_int_handler(number, frame)
    again = threading.Timer(_AGAIN, _thread.interrupt_main)
    again.daemon = True
    again.start()
