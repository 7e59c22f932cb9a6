"""The jobs: what people and sensors launch, backfill and schedule, a module for each subject."""
