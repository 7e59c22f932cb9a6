"""`depthline map`: the depth maps of photos, in a folder, without a pipeline."""
