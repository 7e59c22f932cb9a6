"""What became of one image, in production: which row it is, its source, its outcome under each profile, and what to do next."""
