"""What a log says is in force, against a plain replay that keeps every state."""

import random

from embervlm.memory.chain import GENESIS, Event, in_force


def plain_replay(events: list[Event]) -> set[int]:
    states: dict[int, set[int]] = {0: set()}
    erased = set()
    for event in events:
        state = set(states[event.seq - 1])
        if event.kind == "rollback":
            state = set(states[event.target])
        elif event.kind in ("add", "restore"):
            state.add(event.entry)
        else:
            state.discard(event.entry)
            erased |= {event.entry} if event.kind == "erase" else set()
        states[event.seq] = state
    return states[len(events)] - erased


def test_equals_a_plain_replay_with_rollbacks_of_rollbacks() -> None:
    draw = random.Random(0)
    for _ in range(300):
        events: list[Event] = []
        for seq in range(1, draw.randrange(2, 40)):
            kind = draw.choice("add add forget supersede erase restore rollback".split())
            entry = draw.randrange(1, 9) if kind != "rollback" else None
            target = draw.randrange(seq) if kind == "rollback" else None
            events.append(Event(seq, kind, entry, target))
        assert in_force(events) == plain_replay(events)


def test_every_field_and_the_event_before_count_in_the_digest() -> None:
    event = Event(3, "supersede", 1, 2, "site", 5, "Ada", b"x")
    others = [
        Event(4, "supersede", 1, 2, "site", 5, "Ada", b"x"),
        Event(3, "forget", 1, 2, "site", 5, "Ada", b"x"),
        Event(3, "supersede", 2, 2, "site", 5, "Ada", b"x"),
        Event(3, "supersede", 1, None, "site", 5, "Ada", b"x"),
        Event(3, "supersede", 1, 2, "sites", 5, "Ada", b"x"),
        Event(3, "supersede", 1, 2, "site", 6, "Ada", b"x"),
        Event(3, "supersede", 1, 2, "site", 5, "Bob", b"x"),
        Event(3, "supersede", 1, 2, "site", 5, "Ada", b"y"),
    ]
    digests = {one.digest(GENESIS) for one in (event, *others)} | {event.digest(b"1" * 32)}
    assert len(digests) == 10
