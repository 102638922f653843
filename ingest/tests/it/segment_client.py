"""Segment's official Python SDK, unchanged, against the server in CHALKSTREAM_URL."""

import os
import sys

from segment.analytics.client import Client

url = os.environ["CHALKSTREAM_URL"]
failed = []


def client(key=None, **options):
    return Client(
        key or os.environ["CHALKSTREAM_KEY"],
        host=url,
        on_error=lambda error, batch: failed.append((error, batch)),
        upload_interval=0.1,
        **options,
    )


def answer(sender, item, **properties):
    sender.track("ada", "Answer Submitted", {"item_id": item, "correct": True, **properties})


for gzip in (False, True):
    sender = client(gzip=gzip)
    answer(sender, f"q-{gzip}", skill_ids=["fractions"])
    sender.track("ada", "Badge Earned", {"badge": "é"}, message_id=f"not-a-uuid-{gzip}")
    sender.page("ada", "Help", "Start", {"path": "/start"})
    sender.screen(None, None, "Home", anonymous_id="anonymous-1")
    sender.identify("ada", {"email": "ada@example.org"})
    sender.group("ada", "class-7", {"name": "7b"})
    sender.alias("anonymous-1", "ada")
    sender.flush()
    sender.join()
assert not failed, failed

# The same message again, as after a lost answer, is no second event.
again = client()
again.track("ada", "Badge Earned", {"badge": "once"}, message_id="sent-twice", timestamp=None)
again.flush()
again.join()
assert not failed, failed

# Rejected, all of it: dropped at once, and its developer is told why.
wrong = client()
wrong.track("ada", "Answer Submitted", {"correct": True})
wrong.flush()
wrong.join()
error, batch = failed.pop()
assert (error.status, error.code) == (400, "rejected"), error
assert "item_id" in error.message, error
assert len(batch) == 1 and not failed, failed

# A wrong key: dropped at once.
stranger = client(key="csk_nobody")
answer(stranger, "q")
stranger.flush()
stranger.join()
error, batch = failed.pop()
assert (error.status, error.code) == (401, "unknown-key"), error
assert not failed, failed

# Without its thread, an error is an exception.
direct = client(sync_mode=True)
answer(direct, "direct")
print("all good")
sys.stdout.flush()
