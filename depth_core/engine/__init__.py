"""From source images to written depth maps: the steps as plain functions (stages), and what runs them on one machine (local)."""
