"""Every Python program that a test starts does this first: it looks for garbage less often. That takes a fifth of its imports."""

import gc

gc.set_threshold(50_000, 20, 100)
