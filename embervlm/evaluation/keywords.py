"""A baseline of plain rules: what a careful person would write from the guide in an afternoon.

It follows the guide's "How to decide" and "Ties that experts settle alike" from top to bottom: the
verb, then the place, then the numbers, then the weather. The words were chosen from the guide and
from training rows, and were never held against the test split. Numbers are found by the same parser
that the model uses.

    >>> decide("Bring the 8 kg pump across the ravine").robots
    ('Robot with Legs',)
"""

from __future__ import annotations

import re

from embervlm.evaluation.metrics import Answer
from embervlm.fleet import NO_ROBOT
from embervlm.quantities import Mention, find_quantities

DRONE, DIVER, HUMANOID, WHEELS, LEGS = (
    "Drone",
    "Underwater Robot",
    "Humanoid",
    "Robot with Wheels",
    "Robot with Legs",
)

# The guide's numbers.
_DRONE_KG, _LEGS_KG, _HUMANOID_KG, _WHEELS_KG = 5, 15, 20, 500
_DRONE_WIND_KMH, _DRONE_HOURS, _DRONE_WIDTH_M, _DIVER_DEPTH_M = 50, 2 / 3, 2, 300
_HUMANOID_M = 1000


def _words(text: str) -> re.Pattern[str]:
    """Return a pattern of whole words; a word that ends in `*` may go on."""
    parts = [part.replace("*", r"\w*").replace(" ", r"\s+") for part in text.split("|")]
    return re.compile(r"\b(?:" + "|".join(parts) + r")\b", re.IGNORECASE)


_OFFICE = _words(
    "email|e-mail|invoice|spreadsheet|write up|draft|form|report on|translate|liable|liability|"
    "diagnos*|prescri*|which of the|decide who|decide which|recommend|opinion|advice|should we|"
    "should i|forecast|budget|schedule|rota|password|wifi|sue|legal*|who is|what is the capital|"
    "recipe|poem|summar*|calculate|explain|how many people work|book a|order a|phone number"
)
_MACHINES = _words(
    "crane|digger|excavator|bulldozer|ambulance|forklift truck|tow the car|lift the car|put out|"
    "extinguish|fight the fire|airlift|ferry the people|carry the casualty|carry the patient|"
    "tow the swimmer|pull the swimmer|rescue the swimmer|demolish|bury|plough the"
)
_UNDER_WATER = _words(
    "underwater|under water|seabed|sea bed|lake bed|lakebed|riverbed|river bed|below the waterline|"
    "dive|diver|diving|sunk|sunken|submerged|flooded|hull|keel|propeller|mooring chain|sonar|"
    "bottom of the|reef|wreck|intake|sluice|reservoir|underside of the boat|seagrass|anode*|"
    "drowned|in the pool|in the tank|full to the|deep end|rudder|pier leg*|piles|metres down|"
    "m down|dam face|pool|aquarium|sea floor|seafloor|under the ice|under the ferry|lock gate|well"
)
_DRY = _words("drained|emptied|dry|dried|empty|pumped out|no water")
_HEIGHT = _words(
    "roof*|tower|mast|chimney|spire|steeple|belfry|facade|façade|from above|from the air|aerial|"
    "overhead|bird's eye|skyline|gutter|turbine|pylon|power line|antenna|crane jib|canopy top|"
    "cliff face|parapet|treetop*|cell site|ridge tiles|floodlight|billboard|storey|high up|"
    "whole field|wide|acres|hectares|open sea|offshore|drifting|coast*|bay|lake|harbour|river"
)
_HANDS = _words(
    "open|close|shut|turn|press|push|pull|flip|switch|unlock|lock|screw|unscrew|assemble|fix|repair|"
    "hand|hand over|guide|walk him|walk her|escort|calm|talk|chat|ask|tell|greet|explain to|"
    "reassure|button|lever|valve|handle|plug|unplug|tie|untie|fold|wipe|clean|pour|paint|coil|"
    "sort|wrap|cook|wash|cut|tighten|loosen|replace|change the|hold|swap|set the table|"
    "both hands|two hands|tape|fill|tidy|stack|load the|unload|crank|connect|install|hang|feed"
)
_SAMPLE = _words("sample*|swab*|scoop*")
_CARRY = _words(
    "carry|bring|take|haul|deliver|fetch|move|transport|tow|drop|run|get this|get the|send|ship|"
    "shift|ferry|hump|lug|drag|heave|wanted|needed at|to the|up to"
)
_LOOK = _words(
    "look|see|check|inspect|photograph|photo*|picture*|film|find|search|survey|map|chart|count|"
    "patrol|watch|monitor|measure|read|reading|scan|spot|where|whether|any sign|is there|are there|"
    "eyes on|thermal|leak*|smell|gas|circle|trace|follow|how many|which|did|is the|what"
)
_STAIRS = _words(
    "stair*|steps|upstairs|downstairs|lift is out|lift's out|lift is dead|no lift|ladder"
)
_LIFT_WORKS = _words("lift works|lift's fine|lift is fine|lift's working|lift is working|by lift")
_RUBBLE = _words("rubble|debris|collapsed|ruin*|pancaked|wreckage|slabs|quake|fallen|bricks|blast")
_CONFINED = _words(
    "tunnel*|pipe|duct|culvert|cave|shaft|sewer|crawl|gallery|mine|manhole|conduit|adit|burrow"
)
_ROUGH = _words(
    "forest|wood|woods|mountain|hill*|slope|mud*|snow*|sand*|dune*|bog|moor|field|trail|path|ravine|"
    "gully|scree|beach|meadow|marsh|peat|rock*|grass|hedge|orchard|vineyard|pasture|glacier|swamp|"
    "ploughed|thicket|undergrowth|bank|ridge"
)
_PLANT = _words(
    "plant room|boiler|machine*|cellar|basement|attic|flat|kitchen|workshop|engine room|lab*|home|"
    "house|bedroom|garage|cluttered|gratings|hoses|pump room|refinery|sills|plant"
)
_FLAT = _words(
    "warehouse|hospital|ward|office|corridor|hall|lobby|reception|aisle|shop floor|supermarket|"
    "mall|airport|terminal|museum|library|school|lift's fine|lift is working|floor|gym|store"
)
_PAVED = _words(
    "road|street|yard|car park|tarmac|asphalt|airfield|runway|pavement|quay|concrete|motorway|"
    "driveway|depot|apron|lane|cycle|square|dock|forecourt|paved|bridge deck|platform"
)
_NO_FLIGHT = _words(
    "storm|gale|hurricane|no fly|no-fly|no drones|flight ban|may not fly|nothing airborne|icing|"
    "dense smoke|thick smoke|airspace closed|too windy to fly|grounded"
)
_UNDER_COVER = _words("under the trees|beneath the trees|under trees|under the canopy|undergrowth")
_PLACES = (
    ("rubble", _RUBBLE),
    ("confined", _CONFINED),
    ("indoor_cluttered", _STAIRS),
    ("rough", _ROUGH),
    ("indoor_flat", _FLAT),
    ("indoor_cluttered", _PLANT),
    ("paved", _PAVED),
)


def decide(task: str) -> Answer:
    """Return what the rules say of a request."""
    wind, hours, load, width, depth, distance = _numbers(task)
    no_flight = wind > _DRONE_WIND_KMH or bool(_NO_FLIGHT.search(task))
    under_water = bool(_UNDER_WATER.search(task)) and not _DRY.search(task)
    place = next((name for name, words in _PLACES if words.search(task)), "none")
    if _OFFICE.search(task) and not (load or under_water):
        return _answer([NO_ROBOT], "none")
    if load > _WHEELS_KG or _MACHINES.search(task):
        return _answer([NO_ROBOT], place)
    if under_water and depth <= _DIVER_DEPTH_M:
        return _answer([DIVER], "underwater")
    if load or (_CARRY.search(task) and not _LOOK.search(task)):
        return _answer(_carriers(place, load, distance, no_flight, task), place)
    if (_HANDS.search(task) or _SAMPLE.search(task)) and not _HEIGHT.search(task):
        firm = place in ("indoor_flat", "indoor_cluttered", "paved", "none")
        return _answer(
            [HUMANOID] if firm else [NO_ROBOT], place if place != "none" else "indoor_flat"
        )
    height = bool(_HEIGHT.search(task)) and place not in ("confined", "indoor_flat")
    too_long = hours > _DRONE_HOURS or width < _DRONE_WIDTH_M
    if height and not _UNDER_COVER.search(task):
        return _answer([NO_ROBOT] if no_flight else [DRONE], "airborne")
    return _answer(_lookers(place, no_flight or too_long, hours), place)


def _numbers(task: str) -> tuple[float, float, float, float, float, float]:
    """Return wind, hours, load, width (infinite if not given), depth and distance."""
    mentions = find_quantities(task)

    def largest(kind: str, words: str = "") -> float:
        found = [m.value for m in mentions if m.kind == kind and _near(task, m, words)]
        return max(found, default=0.0)

    width = largest("length_m", "wide|width|gap|across") or float("inf")
    depth = largest("length_m", "deep|depth|down|below")
    return (
        largest("speed_kmh"),
        largest("hours"),
        largest("mass_kg"),
        width,
        depth,
        largest("length_m"),
    )


def _near(task: str, mention: Mention, words: str) -> bool:
    around = task[max(0, mention.start - 15) : mention.end + 15]
    return not words or re.search(words, around, re.IGNORECASE) is not None


def _carriers(place: str, load: float, distance: float, no_flight: bool, task: str) -> list[str]:
    hands = bool(_HANDS.search(task))
    if _STAIRS.search(task) and not _LIFT_WORKS.search(task):
        if load > _HUMANOID_KG:
            return [NO_ROBOT]
        return [HUMANOID] if load > _LEGS_KG or hands else [LEGS, HUMANOID]
    if place in ("rough", "rubble", "confined", "indoor_cluttered"):
        if load > _LEGS_KG:
            return [NO_ROBOT]
        open_air = place in ("rough", "rubble") and load <= _DRONE_KG and not no_flight
        return [DRONE, LEGS] if open_air else [LEGS]
    if place == "paved":
        return [DRONE, WHEELS] if load <= _DRONE_KG and not no_flight else [WHEELS]
    if load <= _LEGS_KG and distance <= _HUMANOID_M:
        return [HUMANOID] if hands else [WHEELS, HUMANOID]
    return [WHEELS]


def _lookers(place: str, grounded: bool, hours: float) -> list[str]:
    if place == "rubble" or place == "confined" or place == "indoor_cluttered":
        return [LEGS]
    if place == "indoor_flat":
        return [WHEELS]
    if place == "paved":
        return [WHEELS] if grounded or hours else [DRONE, WHEELS]
    if place == "none":
        return [NO_ROBOT]
    return [LEGS] if grounded else [DRONE, LEGS]


def _answer(robots: list[str], environment: str) -> Answer:
    return Answer(tuple(robots), robots[0], environment)
