"""Benchmarks of gflow. They are run by hand, never by the tests: see README.md in this folder."""
