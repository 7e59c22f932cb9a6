"""Artworks: single requests from `starting` to their final state, and the workers that work on them.

types.py            rows and answers, without a database
store.py            ArtworkStore: create, get, list, cancel; the queue and the workers of the same database
queue.py            ArtworkQueue, the workers' side: claim, finish, fail, release, reconcile
worker_registry.py  WorkerRegistry: which workers are alive, their heartbeats
idempotency.py      Idempotency-Key: which artwork a key made
cursor.py           where the next page of a list begins
statistics.py       figures for health checks and metrics
retention.py        deletes old artworks
deletion.py         deletes an artwork for its owner, with files that nothing else uses
transitions.py      the statements that change an artwork's status; only the modules above use them

Every change of status is one transaction whose UPDATE names the status it leaves, so none goes backwards and none happens twice.
Transactions lock rows in one order, so that no two of them wait for each other: folders (deletion.lock), artworks,
webhook_deliveries, webhook_endpoints, workers, stage_seconds.
What does not belong here: running a network (engine/), sending webhooks (webhooks: only the outbox entry is written here).
"""
