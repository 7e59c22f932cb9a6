"""The networks, one module for each or for a part of some. All import torch at their top: import them inside functions only.

A network's class is made as `Class(checkpoint, device=..., autocast=...)` and is a `prediction.Network`; the catalogue names it.
"""
