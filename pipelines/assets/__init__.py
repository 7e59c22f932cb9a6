"""The assets, a module for each: from a manifest to its chunks, their images, depth maps, records and galleries."""
