"""Gradient descent on the problems of `gradient_flow`: what it is given (`inputs`), how an iterate follows from the one
before (`rule`), the compiled loop over them (`loop`), and the function that users call (`front`)."""

from .front import gradient_descent as gradient_descent
