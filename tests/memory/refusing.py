"""What every store with a fault does, whatever the fault."""

from pathlib import Path

import pytest
from keeping import correction, vector
from opinion import DRONE, LEGS, Opinion, one

from embervlm.memory.protocol import StoreFaultError
from embervlm.memory.store import LessonStore
from embervlm.scenario import Feedback, Scenario
from embervlm.selector import Selector


def assert_is_refused(place: str | Path, part: str) -> None:
    """Check that a store with a fault finds nothing, takes nothing, and lets deciding go on."""
    store = LessonStore(place)
    assert part in store.fault
    assert store.fault.count(str(place)) == 1
    assert store.search(vector(0), "rough", at_least=-1, k=3) == []
    assert store.missed == (1, store.fault)
    for act in (
        lambda: store.add(correction("new"), vector(9)),
        lambda: store.forget(1),
        store.entries,
        store.stats,
        store.export,
    ):
        with pytest.raises(StoreFaultError):
            act()
    # Deciding goes on without lessons; learning is refused.
    selector = Selector(Opinion(one(DRONE)), memory=LessonStore(place))
    decision = selector.decide(Scenario("look under the bridge"))
    assert decision.robots == (DRONE,)
    assert decision.memory == ()
    with pytest.raises(ValueError, match="not used|cannot be used|something else|newer"):
        selector.learn(decision, Feedback([LEGS]))
