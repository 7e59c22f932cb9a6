"""Dagster and nothing else: thin adapters around depth_core."""

import sys
import warnings

from depth_core import startup

if "pipelines.materialize" in sys.orig_argv:  # the imports below take seconds
    startup.end_in_one_line()

import dagster as dg

# Partitioned asset checks are new in Dagster 1.13, which the constraints pin: a warning at every start of a run helps nobody.
for category in (dg.PreviewWarning, dg.BetaWarning):
    warnings.filterwarnings("ignore", category=category)
