"""Layers: `torch.nn.Module`s that are masks or score modifications, or follow attention.

The only folder of the library that imports torch, when one of its names is first used.
"""
