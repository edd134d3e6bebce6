"""One thread for linear algebra: matrices here are so small that waking a second one takes longer than the work."""

import functools
from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager:
    return _controller().limit(limits=1, user_api="blas")
