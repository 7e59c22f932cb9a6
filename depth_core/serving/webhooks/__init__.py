"""Webhooks: artworks, posted to receivers at their events as Standard Webhooks 1.0 says, retried and recorded.

outbox.py           the table of deliveries: read, claim, record an attempt, replay; artworks/ adds the entries
endpoints.py        which endpoints fail, and which are disabled since they have for days
signing_secrets.py  the secret of each API key, kept encrypted
delivery.py         one attempt: message, signature, POST; and the loop that delivers what is due

At least once: a process that dies between the receiver's answer and its own note sends again, under the same `webhook-id`.
What does not belong here: when an event of an artwork comes, and what the message says of it (artworks/).
"""
