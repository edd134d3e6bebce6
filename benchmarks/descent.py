"""Speed of `gflow.gradient_descent` against a bare `jax.lax.scan`, on a 50 x 50 factorization of depth 3.

    JAX_ENABLE_X64=1 python -m benchmarks.descent --steps 1000000

Both are compiled before they are timed. CPU time is given beside that of the clock: on a machine that others use it is
what can be compared.
"""

import argparse
import time

import jax
import jax.numpy as jnp

import gflow


def main(steps: int) -> None:
    target = gflow.observe.symmetric([10.0, 5.0, 1.0], 50, jax.random.key(0))
    X, y = gflow.observe.everything(target)
    model = gflow.models.MatrixFactorization.identical(50, 3, 0.1)
    loss = gflow.losses.Square(reduction="sum")

    def ours(steps: int):
        return gflow.gradient_descent(model, X, y, loss=loss, step=5e-3, steps=steps).final.factors

    value = lambda W: jnp.sum((W[2] @ W[1] @ W[0] - target) ** 2) / 2
    move = lambda W, _: (jax.tree.map(lambda w, g: w - 5e-3 * g, W, jax.grad(value)(W)), None)
    scan = lambda W: jax.lax.scan(move, W, None, length=steps)[0]
    bare = jax.jit(scan).lower(model.factors).compile()
    jax.block_until_ready(ours(1000))
    seconds = {}
    for name, run in (("gflow", lambda: ours(steps)), ("bare scan", lambda: bare(model.factors))):
        wall, cpu = time.perf_counter(), time.process_time()
        end = jax.block_until_ready(run())
        seconds[name] = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{name:10} {seconds[name][0]:.2f} s, {seconds[name][1]:.2f} CPU s, "
              f"{1e6 * seconds[name][1] / steps:.1f} CPU microseconds a step, "
              f"first entry {float(end[0][0, 0]):.12f}", flush=True)  # fmt: skip
    ratios = [fast / slow for slow, fast in zip(*seconds.values(), strict=True)]
    print(f"speed of gflow over the bare scan: {ratios[0]:.2f}, by CPU time {ratios[1]:.2f} ({steps} steps)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100_000)
    main(parser.parse_args().steps)
