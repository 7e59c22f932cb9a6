"""The API's routes, a module for each group: artworks, their result files, operations (health and metrics)."""
