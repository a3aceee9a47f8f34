"""Requests for Open-RMF keep to the facts of its schemas (rmf_api_msgs, rmf_fleet_adapter)."""

from typing import Any

from embervlm.fleet import Fleet, Robot
from embervlm.planning import Step, allocate
from embervlm.planning.rmf import task_requests
from embervlm.scenario import Needs, Subtask


def check_request(message: dict[str, Any]) -> None:
    """Hold a message against what the schemas require; written from the schemas alone."""
    assert message["type"] == "robot_task_request"
    assert isinstance(message["robot"], str)
    assert isinstance(message["fleet"], str)
    request = message["request"]
    assert request["category"] == "compose"
    start = request.get("unix_millis_earliest_start_time", 0)
    assert isinstance(start, int)
    description = request["description"]
    assert isinstance(description.get("category", ""), str)
    assert isinstance(description.get("detail", ""), str)
    assert len(description["phases"]) >= 1
    for phase in description["phases"]:
        activity = phase["activity"]
        assert activity["category"] == "perform_action"
        action = activity["description"]
        assert isinstance(action["category"], str)
        assert "description" in action
        assert isinstance(action.get("unix_millis_action_duration_estimate", 0), int)
        known = {
            "category",
            "description",
            "unix_millis_action_duration_estimate",
            "use_tool_sink",
            "expected_finish_location",
        }
        assert set(action) <= known


def test_each_step_of_a_robot_is_one_request_in_the_order_of_their_beginnings() -> None:
    steps = [
        Step("shut the valve", Needs(("handle",)), (1,), place=(3.0, 4.0)),
        Step("map the site", Needs(("map",))),
        Step("lift the wall", Needs(("carry",), quantities={"load_kg": 9000})),
    ]
    plan = allocate(Fleet.default(), steps, preferences=[{"Humanoid": 0}, {"Drone": 0}, {}])
    messages = task_requests(plan, fleet_name="site", now_ms=1_000_000)
    assert [message["robot"] for message in messages] == ["Drone", "Humanoid"]
    assert {message["fleet"] for message in messages} == {"site"}
    for message in messages:
        check_request(message)
    starts = [m["request"]["unix_millis_earliest_start_time"] for m in messages]
    assert starts == [1_000_000, 1_600_000]
    action = messages[1]["request"]["description"]["phases"][0]["activity"]["description"]
    assert action["category"] == "handle"
    assert action["description"]["after"] == [2]
    assert action["description"]["place"] == {"x_m": 3.0, "y_m": 4.0}
    assert action["unix_millis_action_duration_estimate"] == 600_000


def test_units_have_names_of_their_own_and_done_steps_are_not_asked_for_again() -> None:
    dogs = Fleet((Robot("Dog", capabilities=frozenset({"look"}), count=2),))
    plan = allocate(dogs, [Step("a", Needs(("look",))), Step("b", Needs(("look",)))])
    assert {message["robot"] for message in task_requests(plan)} == {"Dog", "Dog 2"}
    assert task_requests([Subtask("look", "Dog", done=True), Subtask("b", None)]) == []
    [message] = task_requests([Subtask("look", "Dog")])
    check_request(message)
