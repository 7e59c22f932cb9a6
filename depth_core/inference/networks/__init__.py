"""The networks, one module for each or for a part of some. All import torch at their top: import them inside functions only.

A network's class is made as `Class(checkpoint, device=..., autocast=..., runtime=None)` and is a `prediction.Network`; the
catalogue names it. With a `runtime` (openvino_runtime.py) OpenVINO computes it; where that raises, the caller has torch compute.
"""
