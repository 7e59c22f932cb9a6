"""The HTTP API: validates requests, stores artworks, serves results and delivers webhooks. Runs no model, imports no Dagster."""
