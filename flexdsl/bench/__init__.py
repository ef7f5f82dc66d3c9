"""Benchmarks: named workloads, the peers beside them in the same process, and tables of both.

    cpu             the CPU executor beside torch's scaled_dot_product_attention

Every workload is a function that returns rows, so that the command line, a notebook and a test of
the workload itself can use it; a figure is a median, with what was measured beside it. Nothing here
asserts a time.
"""
