"""The HTTP API: validates a request, writes an artwork, answers. Runs no model and knows no Dagster."""
