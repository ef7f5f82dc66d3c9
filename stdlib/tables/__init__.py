"""Numbers that the variants take, as numpy arrays: slopes, buckets, spans, trees, blocks, factors.

One file each, named after its function. None of them makes a mod.
"""
