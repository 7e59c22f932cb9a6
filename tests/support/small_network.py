"""A GLPN of a few kilobytes with random weights, for tests that need a network and no good one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

CONFIG = {
    "model_type": "glpn",
    "hidden_act": "gelu",
    "head_in_index": -1,
    "num_channels": 3,
    "num_encoder_blocks": 4,
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 16, 16],
    "num_attention_heads": [1, 1, 2, 2],
    "sr_ratios": [8, 4, 2, 1],
    "mlp_ratios": [2, 2, 2, 2],
    "patch_sizes": [7, 3, 3, 3],
    "strides": [4, 2, 2, 2],
    "decoder_hidden_size": 8,
    "max_depth": 1,
}


def write(folder: Path, seed: int = 3) -> Path:
    """A checkpoint to put in the place of the bundled one: the same for each seed, prepared for as that one is."""
    import torch
    from safetensors.torch import save_file

    from depth_core.inference import checkpoints
    from depth_core.inference.networks import glpn

    sizes = glpn.sizes(CONFIG)
    assert sizes is not None
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in glpn.Glpn(sizes).state_dict().items():
        random = torch.randn(tensor.shape, generator=generator)
        if not tensor.is_floating_point():  # counters of training
            tensors[name] = tensor
        elif name.endswith("running_var"):
            tensors[name] = 1 + random.abs()
        elif "convolutional_layer3" in name:  # the coarser features count more: a map is as smooth as a good one
            tensors[name] = torch.tensor([-4.0, 4.0]) if name.endswith("bias") else 0.1 * random
        elif name.startswith("head") and tensor.ndim == 4:  # sees no neighbours, so that the border is nothing special
            tensors[name] = torch.zeros_like(random)
            tensors[name][:, :, 1, 1] = 0.3 * random[:, :, 1, 1]
        else:
            tensors[name] = 1 + 0.1 * random if tensor.ndim == 1 and name.endswith("weight") else 0.3 * random
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shutil.copy(checkpoints.BUNDLED / "preprocessor_config.json", folder)
    return folder
