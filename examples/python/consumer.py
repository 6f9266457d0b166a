"""Example of a consumer group's member that reads Lookout's events from Redis.

Needs redis-py: pip install redis
"""

import argparse
import json
import socket
import sys
import time

import redis


def handle(entry_id, event):
    """Does the work. It may get an entry again after a crash: event["id"] is the same then."""
    data = event["data"]
    print(entry_id, data["stream"], event["type"], data["phase"], data.get("text", ""), sep="\t", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--url", default="redis://127.0.0.1:6379")
    p.add_argument("--key", default="lookout:events")
    p.add_argument("--group", default="example")
    p.add_argument("--consumer", default=socket.gethostname(), help="this member's name, its own for each running program")
    p.add_argument("--from", dest="start", default="$", help="where a new group begins: $ now, 0 at the oldest entry")
    p.add_argument("--claim-after", type=int, default=60000, help="milliseconds")
    p.add_argument("--count", type=int, default=0, help="end after so many entries")
    a = p.parse_args()

    r = redis.Redis.from_url(a.url, decode_responses=True)
    try:
        r.xgroup_create(a.key, a.group, id=a.start, mkstream=True)
    except redis.ResponseError as e:
        if not str(e).startswith("BUSYGROUP"):
            raise

    done = 0

    def work(entries):
        nonlocal done
        for entry_id, fields in entries:
            try:
                event = json.loads(fields["json"])
            except (KeyError, TypeError, ValueError) as e:
                # Acknowledged all the same, or it comes back for ever.
                print(f"entry {entry_id} is no event: {e!r}", file=sys.stderr)
            else:
                handle(entry_id, event)
            r.xack(a.key, a.group, entry_id)
            done += 1

    claimed = 0.0
    while not a.count or done < a.count:
        try:
            if time.monotonic() - claimed > a.claim_after / 2000:  # what a dead member left
                claimed = time.monotonic()
                cursor = "0-0"
                while True:
                    cursor, entries = r.xautoclaim(a.key, a.group, a.consumer, a.claim_after, cursor, count=100)[:2]
                    work(entries)
                    if cursor == "0-0":
                        break
                if a.count and done >= a.count:
                    break
            block = min(a.claim_after // 2 + 1, 5000)
            for _, entries in r.xreadgroup(a.group, a.consumer, {a.key: ">"}, count=100, block=block) or []:
                work(entries)
        except redis.ConnectionError as e:  # Redis is away: redis-py connects again
            print(e, file=sys.stderr)
            time.sleep(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
