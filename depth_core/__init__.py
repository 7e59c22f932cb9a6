"""What a depth map is and how one is made. Knows no Dagster and no web framework."""
