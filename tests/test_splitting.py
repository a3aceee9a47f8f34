"""From what the network says of steps to steps with words, needs and order."""

from dataclasses import replace

import numpy as np
import pytest
from opinion import DRONE, HUMANOID, LEGS, WHEELS, Opinion, logits, one

from embervlm.backends.base import StepScores
from embervlm.fleet import ACTIONS, ENVIRONMENTS, NO_ROBOT, Fleet
from embervlm.planning import Step
from embervlm.prompts import token_spans
from embervlm.quantities import find_quantities
from embervlm.scenario import FLAGS, Feedback, Needs, Scenario
from embervlm.selector import Selector
from embervlm.splitting import (
    liked_robots,
    log_shares,
    one_step_each,
    pieces_of,
    steps_of,
    team_logits,
    without_circles,
)
from embervlm.tokenizer import Tokenizer

TASK = (
    "Map the flood from above, then take 12 kg through the mud. Wind is 60 km/h. Haul 300 kg too."
)
MARKED = ["Map the flood from above", "then take 12 kg through the mud", "Haul 300 kg too"]


def score(
    robot: str,
    action: str,
    after: tuple[bool, ...] = (),
    pointer: np.ndarray | None = None,
    flags: tuple[str, ...] = (),
    place: str = "none",
) -> StepScores:
    return StepScores(
        more=4.0,
        robots=logits((*Fleet.default().names, NO_ROBOT), [robot]),
        actions=logits(ACTIONS, [action]),
        flags=logits(FLAGS, flags),
        environment=logits(ENVIRONMENTS, [place]),
        after=np.where([*after, *[False] * (6 - len(after))], 3.0, -3.0).astype(np.float32),
        pointer=np.ones(1, np.float32) if pointer is None else pointer,
    )


def words_of(text: str) -> list[tuple[int, int]]:
    found, at = [], 0
    for word in text.split():
        begin = text.index(word, at)
        found.append((begin, begin + len(word)))
        at = begin + len(word)
    return found


def pointing(text: str, words: str) -> np.ndarray:
    begin = text.index(words)
    inside = [a >= begin and b <= begin + len(words) for a, b in words_of(text)]
    return (np.array(inside) / sum(inside)).astype(np.float32)


def three_steps() -> list[StepScores]:
    return [
        score(DRONE, "map", (), pointing(TASK, MARKED[0]), ("height",), "airborne"),
        score(LEGS, "carry", (True,), pointing(TASK, MARKED[1]), ("mud",)),
        score(WHEELS, "carry", (True, True), pointing(TASK, MARKED[2])),
    ]


def test_steps_get_their_words_numbers_and_order() -> None:
    roles = {12: "load_kg", 60: "wind_kmh", 300: "load_kg"}
    mentions = [(m, {roles[int(m.value)]: m.value}) for m in find_quantities(TASK)]
    one, two, three = steps_of(TASK, words_of(TASK), three_steps(), mentions, 0.9)
    assert [one.subtask, two.subtask, three.subtask] == [
        "Map the flood from above",
        "Take 12 kg through the mud",
        "Haul 300 kg too",
    ]
    assert one.needs.quantities == {"wind_kmh": 60}
    assert two.needs.quantities == {"load_kg": 12, "wind_kmh": 60}
    assert three.needs.quantities == {"load_kg": 300, "wind_kmh": 60}
    assert (one.needs.environment, one.needs.flags) == ("airborne", {"height"})
    assert two.needs.actions == ("carry",)
    # Step 3 waits for step 2, which waits for step 1.
    assert [one.after, two.after, three.after] == [(), (0,), (1,)]


def test_of_two_numbers_the_one_that_the_robot_can_keep_counts() -> None:
    text = "the 900 kg drum is the crane's, bring the 75 kg of brushes"
    spans = words_of(text)
    pointer = np.full(len(spans), 1 / len(spans), np.float32)
    mentions = [(m, {"load_kg": m.value}) for m in find_quantities(text)]
    for robot, counts in ((WHEELS, 75), (LEGS, 900)):
        (step,) = steps_of(text, spans, [score(robot, "carry", (), pointer)], mentions, 0.9)
        assert step.needs.quantities == {"load_kg": counts}
    (step,) = steps_of(text, spans, [score(WHEELS, "carry", (), pointer)], mentions[:1], 0.9)
    assert step.needs.quantities == {"load_kg": 900}


def test_an_action_that_is_not_certain_rules_nobody_out_whom_the_network_has_in_mind() -> None:
    unsure = np.full(len(ACTIONS), -5.0, np.float32)
    unsure[ACTIONS.index("talk")], unsure[ACTIONS.index("measure")] = 0.5, -1.0
    for robot, action in ((LEGS, "measure"), ("Humanoid", "talk")):
        step = replace(score(robot, "look"), actions=unsure)
        (found,) = steps_of("gas?", [(0, 4)], [step], [], 0.9)
        assert found.needs.actions == (action,)
    sure = replace(score(LEGS, "look"), actions=unsure + 5)
    assert "talk" in steps_of("gas?", [(0, 4)], [sure], [], 0.9)[0].needs.actions


def test_of_a_circle_the_likelier_links_are_kept() -> None:
    logits = np.full((3, 3), -4.0)
    logits[0, 1], logits[1, 2], logits[2, 0] = 3.0, 1.0, 2.0
    assert without_circles(logits) == [[1], [], [0]]
    assert without_circles(np.full((2, 2), -1.0)) == [[], []]


def test_steps_told_last_and_done_first_are_put_first(tokenizer: Tokenizer) -> None:
    opinion = Opinion(one(DRONE, LEGS), team=True)
    opinion.tokenizer = tokenizer
    task = "Take the pump through the mud. Before that, map the flood."
    spans = token_spans(task, tokenizer, 128)
    first = np.array([b <= task.index(".") for _, b in spans], np.float32)
    opinion.steps = [
        score(LEGS, "carry", (False, True), first / first.sum(), ("mud",)),
        score(DRONE, "map", (False,), (1 - first) / (1 - first).sum()),
    ]
    decision = Selector(opinion).decide(Scenario(task))
    assert [(step.robot, step.after) for step in decision.plan] == [(DRONE, ()), (LEGS, (0,))]
    assert [step.subtask for step in decision.plan] == [
        "Before that, map the flood",
        "Take the pump through the mud",
    ]


def test_pieces_are_the_whole_request_without_gaps() -> None:
    for text in (TASK, "look", "a, b; c. d - e and then f", "1,000 kg: 2.5 m."):
        pieces = pieces_of(text)
        assert "".join(text[a:b] for a, b in pieces) == text


def test_long_words_are_cut_at_a_word() -> None:
    text = "look at " + "the long wall " * 30
    spans = words_of(text)
    pointer = np.full(len(spans), 1 / len(spans), np.float32)
    (step,) = steps_of(text, spans, [score(DRONE, "look", (), pointer)], [], 0.9)
    assert len(step.subtask) <= 124
    assert step.subtask.endswith(" ...")


def test_the_team_is_drawn_from_steps_and_from_the_whole() -> None:
    flat = np.zeros(32, np.float32)
    liked = [log_shares(step.robots) for step in three_steps()[:2]]
    alone = team_logits(flat, liked, 0.0)
    assert int(alone.argmax()) == 0b10001
    assert np.exp(alone).sum() == pytest.approx(1, abs=1e-3)
    whole = np.where(np.arange(32) == 0b01001, 40.0, 0.0).astype(np.float32)
    assert int(team_logits(whole, liked, 1.0).argmax()) == 0b01001


def test_a_step_is_also_judged_by_its_own_words() -> None:
    step = replace(three_steps()[0], robots=np.zeros(6, np.float32))
    alone = Opinion({frozenset({LEGS}): 0.6, frozenset({DRONE, LEGS}): 0.4}).propose("x", None)
    shares = np.exp(liked_robots(step, alone, 1.0))
    # Legs has 0.6 and half of 0.4.
    assert shares[[0, 4]] == pytest.approx([0.2, 0.8], abs=0.01)
    assert np.exp(liked_robots(step, alone, 0.0)) == pytest.approx(np.full(5, 0.2))


def test_a_decision_has_the_steps_and_their_robots(tokenizer: Tokenizer) -> None:
    opinion = Opinion(one(DRONE, LEGS), team=True, roles=["load_kg"], steps=[])
    task = "Map the flood, then take 12 kg through the mud"
    opinion.tokenizer = tokenizer
    spans = token_spans(task, tokenizer, 128)
    first = np.array([b <= len("Map the flood,") for _, b in spans], np.float32)
    opinion.steps = [
        score(DRONE, "map", (), first),
        score(LEGS, "carry", (True,), 1 - first, ("mud",)),
    ]
    decision = Selector(opinion).decide(Scenario(task))
    assert decision.robots == (DRONE, LEGS)
    assert [(step.robot, step.after) for step in decision.plan] == [(DRONE, ()), (LEGS, (0,))]
    assert decision.plan[1].start_min == pytest.approx(decision.plan[0].duration_min)


def test_a_step_that_a_chosen_robot_cannot_do_goes_to_another(tokenizer: Tokenizer) -> None:
    opinion = Opinion(one(DRONE, LEGS), team=True, calibration={"step_weight": 0.0})
    opinion.tokenizer = tokenizer
    # The Robot with Legs cannot handle anything, whoever wants it to.
    turn = score(LEGS, "handle", (True,))
    leaning = np.array([-8, -8, 2, -8, 4, -8], np.float32)
    opinion.steps = [score(DRONE, "map"), replace(turn, robots=leaning)]
    decision = Selector(opinion).decide(Scenario("map it, then turn the valve"))
    assert [step.robot for step in decision.plan] == [DRONE, HUMANOID]
    # Another that is able, but has no chance at it by the network, does not stand in.
    opinion.steps = [score(DRONE, "map"), turn]
    decision = Selector(opinion).decide(Scenario("map it, then turn the valve"))
    assert [step.robot for step in decision.plan] == [DRONE, None]
    assert "Humanoid: suits it with a chance below 3%" in decision.plan[1].why


def test_what_nobody_can_do_says_why(tokenizer: Tokenizer) -> None:
    opinion = Opinion(one(DRONE, WHEELS), team=True, roles=["load_kg"])
    opinion.tokenizer = tokenizer
    task = "map it, then haul 900 kg"
    spans = np.zeros(1, np.float32)
    opinion.steps = [score(DRONE, "map", (), spans), score(WHEELS, "carry", (False,))]
    decision = Selector(opinion).decide(Scenario(task))
    assert decision.robots == (DRONE,)
    assert decision.plan[1].robot is None
    assert "carries up to 500 kg, asked 900 kg" in decision.plan[1].why


def test_each_robot_of_a_team_has_a_step_where_it_can_have_one() -> None:
    default = Fleet.default()
    team = Fleet((default[DRONE], default[LEGS]))
    steps = [Step("look", Needs(("look",))), Step("measure", Needs(("measure",)))]
    # Both steps like the Drone best; the second loses least by the other.
    likes = [{DRONE: -0.1, LEGS: -4.0}, {DRONE: -0.5, LEGS: -1.0}]
    assert [step.robot for step in one_step_each(team, steps, likes)] == [DRONE, LEGS]
    hands = [steps[0], Step("turn", Needs(("handle",)))]
    assert [step.robot for step in one_step_each(team, hands, likes)] == [None, None]
    assert [step.robot for step in one_step_each(team, steps[:1], likes[:1])] == [None]


def test_a_lesson_on_a_team_is_followed_to_the_letter(tokenizer: Tokenizer) -> None:
    opinion = Opinion(one(DRONE, LEGS), team=True, calibration={"step_weight": 0.0})
    opinion.tokenizer = tokenizer
    opinion.steps = [score(DRONE, "map"), score(LEGS, "carry", (True,))]
    selector, scenario = Selector(opinion), Scenario("map it, then take the ropes along")
    first = selector.decide(scenario)
    assert first.robots == (DRONE, LEGS)
    # The Humanoid has no step by the network, and is sent all the same.
    selector.learn(first, Feedback([HUMANOID, DRONE]))
    again = selector.decide(scenario)
    assert again.robots == (HUMANOID, DRONE)
    assert {step.robot for step in again.plan} <= {HUMANOID, DRONE, None}
    assert again.lessons


def test_a_lesson_on_a_team_keeps_the_limits_of_the_steps(tokenizer: Tokenizer) -> None:
    opinion = Opinion(one(DRONE, LEGS), team=True, calibration={"step_weight": 0.0})
    opinion.tokenizer = tokenizer
    opinion.steps = [
        score(DRONE, "map", (), None, ("height",)),
        score(LEGS, "search", (True,), None, ("rubble",)),
    ]
    selector, scenario = Selector(opinion), Scenario("map it from above, then search the rubble")
    first = selector.decide(scenario)
    nobody = selector.learn(first, Feedback([WHEELS]))
    assert nobody.metadata["quarantine"] == (
        "It contradicts the fleet's facts: the Robot with Wheels cannot work at height."
    )
    assert selector.decide(scenario).lessons == ()
    # Whoever keeps the limits of no step stays away, whatever the lesson.
    selector.learn(first, Feedback([WHEELS, LEGS]))
    assert selector.decide(scenario).robots == (LEGS,)


@pytest.mark.parametrize(("shift", "goes"), [(8.0, (DRONE, LEGS)), (2.0, (DRONE,))])
def test_a_doubtful_job_is_a_team_s_where_that_is_likelier(
    shift: float, goes: tuple[str, ...], tokenizer: Tokenizer
) -> None:
    # One robot has 0.9; the steps' team has nearly 1, times the odds exp(shift - 5).
    shares = {frozenset({DRONE}): 0.9, frozenset({LEGS}): 0.1}
    numbers = {"team_from": -6.0, "team_shift": shift, "team_weight": 0.0, "step_weight": 0.0}
    opinion = Opinion(shares, calibration={**numbers, "team_temperature": 1.0})
    opinion.tokenizer = tokenizer
    opinion.steps = [score(DRONE, "map"), score(LEGS, "carry", (True,))]
    decision = Selector(opinion).decide(Scenario("map the flood, then take the pump"))
    assert decision.robots == goes
    assert len(decision.plan) == len(goes)
    opinion.calibration = {**numbers, "team_from": -4.0}
    sure = Selector(opinion).decide(Scenario("map the flood, then take the pump"))
    assert sure.robots == (DRONE,)
