"""Dagster and nothing else: thin adapters around depth_core."""

import sys
import warnings

from depth_core import startup

if "pipelines.materialize" in sys.orig_argv:  # the imports that follow take seconds
    startup.end_in_one_line()

# Partitioned asset checks are new in Dagster 1.13, which the constraints pin: a warning at every start of a run helps nobody.
# Named by their text: to import Dagster for their classes would take programs seconds that need none of it, as `pipelines.up`.
warnings.filterwarnings("ignore", message=r"(?s).* is currently in (preview|beta), and may have breaking changes")
