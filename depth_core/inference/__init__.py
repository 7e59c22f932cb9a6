"""From an image and a checkpoint to depth. Modules import downwards only, in this order (import-linter holds it):

predictor (a model on its device), runtimes (what computes on a CPU) and preprocessor (images for it), networks/, checkpoints
(where weights are), weights_cache, weights and image_processor (what files hold) and sizing, preprocessing; then what needs
none of these: prediction, quantiles, threads, trials, devices.
"""
