"""Rewards: what a sound answer earns, and that no cheap one earns it too."""

from __future__ import annotations

import pytest

from embervlm.data.scenarios import load
from embervlm.prompts import write_reasoning
from embervlm.scoring import set_reward
from embervlm.training.rewards import REWARDS, WEIGHTS, names_of, rewards_of, total
from embervlm.training.stage_data import reasoning_of

REQUEST = "Carry the 12 kg pump up to the ward, 3 floors, the lift is dead."
LEGS = "Robot with Legs"


def lines(task: str, environment: str, decision: str, robots: str = LEGS) -> str:
    return (
        f"<|robots|>{robots}<|task|>{task}<|environment|>{environment}<|decision|>{decision}<|end|>"
    )


SOUND = lines("bring a 12 kg pump up", "stairwell, no lift", "stairs: the Robot with Legs.")
ALL = "the Drone, Underwater Robot, Humanoid, Robot with Wheels and Robot with Legs."


@pytest.mark.parametrize(
    ("text", "format_", "faithfulness", "brevity"),
    [
        (SOUND, 1, 1, 1),
        ("", 0, 0, 0),
        ("<|robots|>Robot with Legs<|task|><|end|>", 0, 0, 0),
        (SOUND.removesuffix("<|end|>"), 0, 0, 0),
        (SOUND + SOUND, 0, 0, 0),
        (lines("bring it <|m<=2|> up", "stairwell", "the Robot with Legs."), 0, 0, 0),
        # The decision names nobody, another robot, all of them, or one twice.
        (lines("bring a 12 kg pump up", "stairwell, no lift", "legs take stairs."), 1, 0.5, 1),
        (lines("bring a 12 kg pump up", "stairwell, no lift", "stairs: the Humanoid."), 1, 0.5, 1),
        (lines("bring a 12 kg pump up", "stairwell, no lift", ALL), 1, 0.5, 1),
        (lines("bring a pump up", "stairs", f"{LEGS}, {LEGS} and {LEGS}."), 1, 0.5, 1),
        # All of them everywhere: the other lines may not name who stays, either.
        (lines(ALL, ALL, ALL), 1, 0, 2 - 36 / 28),
        # The request again and again.
        (lines(REQUEST, REQUEST, REQUEST), 1, 0.5, 2 - 45 / 28),
        # Numbers that the request does not hold, with a unit and without one.
        (lines("bring a 15 kg pump up", "stairwell, no lift", f"stairs: {LEGS}."), 1, 0.75, 1),
        (lines("bring a 12 kg pump up", "stairwell to ward 7", f"stairs: {LEGS}."), 1, 0.75, 1),
        (lines("bring a 12 kg pump up", "stairwell, no lift", f"within 15 kg: {LEGS}"), 1, 0.5, 1),
        (lines("bring a pump 12 m up", "stairwell, no lift", f"stairs: {LEGS}."), 1, 0.75, 1),
        # As little as parses.
        (lines("a", "a", LEGS), 1, 1, 5 / 8),
    ],
)  # fmt: skip
def test_what_an_answer_earns(
    text: str, format_: float, faithfulness: float, brevity: float
) -> None:
    found = rewards_of(REQUEST, suited=[LEGS], decided=[LEGS], text=text)
    assert found["set"] == 1
    assert found["format"] == format_
    assert found["faithfulness"] == faithfulness
    assert found["brevity"] == pytest.approx(max(0, brevity))


def test_the_set_earns_for_overlap_and_for_being_the_same() -> None:
    every = {"Drone", "Underwater Robot", "Humanoid", "Robot with Wheels", "Robot with Legs"}
    assert set_reward({"Drone"}, {"Drone"}) == 1
    assert set_reward({"Drone", "Humanoid"}, {"Drone"}) == 0.25
    assert set_reward(every, {"Drone"}) == 0.1
    assert set_reward({"No Robot"}, {"Drone"}) == 0
    assert set_reward({"No Robot"}, {"No Robot"}) == 1


def test_no_cheap_answer_earns_as_much_as_a_sound_one() -> None:
    def worth(text: str, decided: list[str]) -> float:
        return total(rewards_of(REQUEST, suited=[LEGS], decided=decided, text=text), REWARDS)

    sound = worth(SOUND, [LEGS])
    every = ["Drone", "Underwater Robot", "Humanoid", "Robot with Wheels", "Robot with Legs"]
    assert sound == 1
    assert worth("", [LEGS]) == pytest.approx(WEIGHTS["set"])
    assert worth(lines("look up there", "a place", ALL, "; ".join(every)), every) < 0.6
    assert worth(lines(REQUEST, REQUEST, REQUEST), [LEGS]) < 0.82
    assert worth(lines("a", "a", LEGS), [LEGS]) < 0.97


def test_the_authors_lines_are_rewarded() -> None:
    rows = [row for row in load("scenarios", "validation") if "reasoning" in row][:200]
    found = [
        rewards_of(
            row["task"],
            suited=row["suited"],
            decided=row["suited"],
            text=write_reasoning(reasoning_of(row)),
        )
        for row in rows
    ]
    means = {name: sum(one[name] for one in found) / len(found) for name in REWARDS}
    assert means["set"] == means["format"] == 1
    assert means["brevity"] > 0.97
    # Half of them say "wheels" or "nobody" where the reward wants a name.
    assert means["faithfulness"] > 0.65


def test_the_sum_is_weighted_among_what_counts() -> None:
    found = {"set": 1.0, "format": 1.0, "faithfulness": 0.0, "brevity": 0.5}
    assert total(found, REWARDS) == pytest.approx(0.5 + 0.1 + 0.05)
    assert total(found, ["set"]) == 1
    assert total(found, ["format", "faithfulness"]) == pytest.approx(0.25)
    assert total(found, []) == 0
    assert sum(WEIGHTS.values()) == pytest.approx(1)


def test_a_recipe_names_rewards() -> None:
    assert names_of("set, brevity") == ("set", "brevity")
    for told in ("set,sett", "", ","):
        with pytest.raises(ValueError, match="expected some of set, format, faithfulness, brev"):
            names_of(told)
