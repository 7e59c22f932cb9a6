"""Single requests: the artworks table, the inbox folder, the webhook outbox. What runs them is the engine's and Dagster's."""
