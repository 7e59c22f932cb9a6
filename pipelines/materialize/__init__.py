"""`python -m pipelines.materialize`: one whole manifest in one process: index, ingest, depth maps, records, gallery.

For a first look, for scripts and for people without a daemon. The runs are ordinary Dagster runs in the instance at DAGSTER_HOME,
so the UI shows them. Large manifests belong in backfills, which run in parallel.
"""
