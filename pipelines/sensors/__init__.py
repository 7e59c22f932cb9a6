"""The sensors: what starts work by itself when something has changed, a module for each."""
