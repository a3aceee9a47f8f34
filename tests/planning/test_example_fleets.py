"""The fleets that ship as examples load, and plan."""

from pathlib import Path

import pytest

from embervlm.fleet import Fleet
from embervlm.live import FleetState
from embervlm.planning import Step, allocate
from embervlm.scenario import Needs

FOLDER = Path(__file__).parents[2] / "examples" / "fleets"
FLEETS = sorted(path for path in FOLDER.glob("*.yaml") if not path.stem.endswith("_state"))


@pytest.mark.parametrize("path", FLEETS, ids=lambda path: path.stem)
def test_every_example_loads(path: Path) -> None:
    fleet = Fleet.from_yaml(path)
    assert len(fleet) >= 3
    state = path.with_name(f"{path.stem}_state.yaml")
    if state.is_file():
        assert len(FleetState.from_file(state).applied(fleet)) == len(fleet)


def test_the_arm_of_coherent_cannot_go_anywhere_and_its_quadrotor_cannot_grab() -> None:
    fleet = Fleet.from_yaml(FOLDER / "coherent.yaml")
    steps = [
        Step("bring the apple over", Needs(("carry",), quantities={"distance_m": 12.0})),
        Step("open the drawer", Needs(("handle",), quantities={"distance_m": 4.0}), (0,)),
    ]
    plan = allocate(fleet, steps)
    assert plan.steps[0].robot in ("Quadrotor", "Robot Dog")
    assert plan.steps[1].robot == "Robot Dog"
    dog = allocate(fleet, [Step("open it", Needs(("handle", "look", "carry")))])
    assert dog.steps[0].robot == "Robot Dog"


def test_smart_llm_s_specialists_do_what_they_are_for() -> None:
    fleet = Fleet.from_yaml(FOLDER / "smart_llm.yaml")
    assert len(fleet) == 28
    lift = Step("lift the pan", Needs(("carry",), quantities={"load_kg": 1.5}))
    assert fleet["robot25"].can("carry")
    assert not fleet["robot24"].can("carry")
    light = [f"robot{n}" for n in (5, 7, 8, 10, 28)]
    chosen = allocate(fleet, [lift], preferences=[dict.fromkeys(light, 0.0)])
    assert chosen.steps[0].robot not in light


def test_the_harbour_now_waits_for_the_mule() -> None:
    fleet = FleetState.from_file(FOLDER / "harbour_state.yaml").applied(
        Fleet.from_yaml(FOLDER / "harbour.yaml")
    )
    plan = allocate(fleet, [Step("tow the cart", Needs(("carry",), quantities={"load_kg": 400}))])
    assert (plan.steps[0].robot, plan.steps[0].start_min) == ("Mule", 10.0)
    assert allocate(fleet, [Step("dive", Needs(("look",), "underwater"))]).unassigned == (0,)
