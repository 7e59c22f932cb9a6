"""The schedules: what the clock starts, a module for each subject."""
