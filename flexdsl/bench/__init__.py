"""Benchmarks: named workloads, the peers beside them in the same process, and tables of both.

    workloads       the table of shapes, masks and scores
    peers           flexdsl, FlexAttention and scaled_dot_product_attention, ready for a workload
    gpu, cpu        how either keeps time; machine chooses one and describes it
    memory          peak memory of a call
    short           calls in a row, and what their kernels take of them
    measure         a workload and its peers -> rows
    report          rows -> a table for the terminal, JSON, a picture
    plans           how long plans take and how large they are, by length
    host            what short calls cost the host
    variants        all of the standard library (catalogue) beside the bound that plans give

    machine = find_machine()
    rows = measure(WORKLOADS[1], choose(None, machine.device), Settings(), machine)

A figure is a median, with what was measured beside it. Nothing here asserts a time.
"""
