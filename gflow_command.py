"""The `gflow` command: switches on the 64-bit floats that the library asks for, then hands over to `gflow.cli`.

It stands outside the package because importing gflow already needs them.
"""

import os
import signal
import sys


def main() -> None:
    os.environ["JAX_ENABLE_X64"] = "1"
    try:
        from gflow.cli import main as run

        run()
    except KeyboardInterrupt:
        # Before the command itself could say more.
        print("\ngflow: interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        # A second Ctrl-C would end the process in the midst of its last words.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
