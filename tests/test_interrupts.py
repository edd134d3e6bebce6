"""Ctrl-C in the midst of things."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from gflow.interrupts import compiling_undisturbed

# Pressed in the midst of a long compilation; whether the process still lives after it.
COMPILING = """
    import os, signal, sys, threading, time
    import jax, jax.numpy as jnp
    import gflow
    from gflow.interrupts import compiling_undisturbed

    def press():
        where = lambda: sys._current_frames()[threading.main_thread().ident].f_code.co_filename
        seen = 0
        while seen < 4:
            time.sleep(0.05)
            seen = seen + 1 if where().endswith("compiler.py") else 0
        os.kill(os.getpid(), signal.SIGINT)

    def long(x):
        for k in range(1000):
            x = jnp.sin(x @ x) + k
        return x

    assert gflow.gradient_flow.__wrapped__ and gflow.gradient_descent.__wrapped__ and gflow.sweep.__wrapped__
    threading.Thread(target=press, daemon=True).start()
    try:
        with compiling_undisturbed():
            jax.jit(long)(jnp.eye(2))
    except KeyboardInterrupt:
        print("heard")
    time.sleep(5.0)
    print("alive")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_waits_for_xla_to_compile():
    """Before: a segmentation fault seconds later."""
    command = [sys.executable, "-c", textwrap.dedent(COMPILING)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["heard", "alive"]


def test_handlers_of_others_stay():
    mine = lambda number, frame: None
    before = signal.signal(signal.SIGINT, mine)
    try:
        with compiling_undisturbed():
            assert signal.getsignal(signal.SIGINT) is mine
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt), compiling_undisturbed():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
