"""Reads a description back into facts, so that training can count what is right. The shipped scorer is stricter and separate."""
from __future__ import annotations

import re
from collections import Counter

SAME = [(r"^enters from", "comes in from"), (r"^has left to", "leaves to"), (r"^stops$", "has stopped"), (r"^moves off to", "starts to move to"),
        (r"^has turned back to the (\w+)", r"turns back \1"), (r"^turns back and \w+ to the (\w+)", r"turns back \1"), (r"^puts a box down", "drops a box"), (r"^takes up", "picks up"),
        (r"^has fallen", "falls"), (r"^stands up again", "gets up"), (r"^(walks|is walking|drives|is driving|rides|is riding|runs|is running|rolls|is rolling)", "moves"),
        (r" and carries a box", " with a box"), (r"^is lying", "lies"), (r"^stands (on|in)", r"is \1"), (r"^approaches", "moves towards")]
NOUN = re.compile(r"^(?:A|An|The) (person in an? \w+ coat|crate of \w+|box|\w+ \w+) (.*)$")


def facts(text: str) -> Counter:
    out = Counter()
    for s in re.split(r"\.\s*", text.strip()):
        if not s:
            continue
        m = NOUN.match(s)
        if not m:
            out[("nothing",) if s in ("The yard is empty", "Nobody is there", "There is nothing in the yard") else ("?", s)] += 1
            continue
        c = m[2]
        for a, b in SAME:
            c = re.sub(a, b, c)
        out[(m[1], c)] += 1
    return out


def score(pairs) -> dict[str, float]:
    """Of (said, true) pairs: recall and false claims of whole facts, and of the nouns alone."""
    hit = said = true = nhit = 0
    for a, b in pairs:
        x, y = facts(a), facts(b)
        hit += sum((x & y).values())
        said += sum(x.values())
        true += sum(y.values())
        nx, ny = Counter(k[0] for k in x.elements()), Counter(k[0] for k in y.elements())
        nhit += sum((nx & ny).values())
    return {"recall": hit / max(true, 1), "false": 1 - hit / max(said, 1), "noun_recall": nhit / max(true, 1), "noun_false": 1 - nhit / max(said, 1)}
