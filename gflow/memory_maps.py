"""Room for compiled programs.

Linux gives a process 65,530 memory maps (vm.max_map_count). A program that XLA has compiled for the CPU takes some
hundreds, one with kinks three thousand, for as long as JAX keeps it; where none are left the compiler aborts the
process. So when most are taken JAX's programs are let go: what is still in use is compiled again.
"""

import contextlib
import gc
from pathlib import Path
from typing import Any

import jax
import jax.monitoring

_SHARE = 0.7
_compiled = False


def _notice(event: str, duration_secs: float, **about: Any) -> None:
    global _compiled
    _compiled = _compiled or event.endswith("backend_compile_duration")


jax.monitoring.register_event_duration_secs_listener(_notice)


def make_room() -> None:
    """To be called before something may be compiled. It looks only where something has been since the last time."""
    global _compiled
    if not _compiled:
        return
    _compiled = False
    # Other systems have neither of these files.
    with contextlib.suppress(OSError, ValueError):
        if _taken() > _SHARE * int(Path("/proc/sys/vm/max_map_count").read_text()):
            jax.clear_caches()
            gc.collect()


def _taken() -> int:
    return Path("/proc/self/maps").read_bytes().count(b"\n")
