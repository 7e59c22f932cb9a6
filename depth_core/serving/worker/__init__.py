"""A worker: claims waiting artworks, fetches their images, runs them through an engine and finishes them.

worker.py     Worker: the loop, from a claim to the artwork's final status
claims.py     what it has claimed, and how each claim ends
opening.py    a worker of the configured database and store that also serves the inbox, for Dagster and the command line
downloads.py  images on their way here, in a thread of their own
engines.py    engines that stay open between batches, within a budget of memory
warm.py       models that are loaded before anybody asks for them
report.py     what a worker has done so far

What does not belong here: when a worker is started (pipelines, cli), and what claims and leases are (artworks/).
"""
