"""Dagster and nothing else: thin adapters around depth_core."""

import sys
import warnings

from depth_core import startup

if "pipelines.materialize" in sys.orig_argv:  # the imports that follow take seconds
    startup.end_in_one_line()

# Partitioned asset checks are new in Dagster 1.13, which the constraints pin: a warning at every start of a run helps nobody.
# Matched by text: importing Dagster for the warning classes would cost seconds in programs that do not need it (`pipelines.up`).
warnings.filterwarnings("ignore", message=r"(?s).* is currently in (preview|beta), and may have breaking changes")
