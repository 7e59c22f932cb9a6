"""The asset checks, a module for each asset that has some."""
