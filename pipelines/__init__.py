"""Dagster and nothing else: thin adapters around depth_core."""

import warnings

import dagster as dg

# Partitioned asset checks are new in Dagster 1.13, which the constraints pin: nobody needs to be told so at every start of a run.
for category in (dg.PreviewWarning, dg.BetaWarning):
    warnings.filterwarnings("ignore", category=category)
