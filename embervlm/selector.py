"""The front door: a scenario goes in, a decision comes out, and a correction is remembered.

    selector = Selector.from_pretrained()
    decision = selector.decide(Scenario(task="reach the people on the roof", image="flood.jpg"))

The network proposes; planning disposes: a robot that breaks a stated hard limit leaves every set it
is in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypedDict

import numpy as np
from numpy.typing import NDArray

from embervlm import planning, spelling
from embervlm.abilities import Abilities
from embervlm.backends.base import MAX_TASK_TOKENS, Array, Backend, Proposal, StepScores
from embervlm.faithfulness import checks_of
from embervlm.fleet import ACTIONS, ENVIRONMENTS, NO_ROBOT, Fleet
from embervlm.imaging import KEPT_SIDES, load_image, preprocess
from embervlm.live import FleetState, without
from embervlm.memory import free_text, lessons
from embervlm.memory.entries import MemoryEntry
from embervlm.memory.home import may_be_there
from embervlm.prompts import (
    Reasoning,
    Thinking,
    describe_needs,
    one_line,
    parse_reasoning,
    token_spans,
    write_thinking,
)
from embervlm.quantities import Mention, find_quantities
from embervlm.scenario import (
    FACTORS,
    FLAGS,
    QUANTITIES,
    Decision,
    Feedback,
    Needs,
    Scenario,
    Subtask,
)
from embervlm.splitting import Job, liked_robots, one_step_each, steps_of, team_logits
from embervlm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from embervlm.memory.protocol import LessonMemory

_DEFAULT_FLEET = Fleet.default()

# How many robots each of the 32 sets of the network holds.
SIZES = np.array([number.bit_count() for number in range(32)])
# So many descriptions are read for one request, each up to so many characters.
_DESCRIBED, _READ = 32, 500
# A robot whose chance at a step of a job is below this does not do it, whoever else is left.
_NO_CHANCE = float(np.log(0.03))
# Where no action is likelier than not, the likeliest is told if its logit is above this (a chance
# of 0.12): of the bounds tried on validation the one with the most right lists of actions.
_LIKELY_ACTION = -2.0


@dataclass(frozen=True)
class Calibration:
    """Numbers fitted on the validation split by `evaluation.calibration`, shipped beside the
    weights.

    `no_robot_shift` is added to the logit of the empty set where there is no photo, then
    `temperature` divides all of them. `confidence_scale` and `confidence_shift` map the log-odds
    of the best set to those of being right. `ask_below` is the confidence under which a person
    should decide. `certain_flag` is the probability above which a flag counts as stated, for hard
    limits. `limit_shift` is added to the logits with which a number states a limit, against "none
    of these". `step_weight` is how much a step's own words, read alone, say of whom it suits, and
    `team_weight` what the whole request says of a team beside its steps (`splitting.liked_robots`,
    `team_logits`); `team_temperature` divides the sum of both. `same_request` is the cosine above
    which a lesson applies.
    """

    no_robot_shift: float = 0.0
    temperature: float = 1.0
    confidence_scale: float = 1.0
    confidence_shift: float = 0.0
    ask_below: float = 0.5
    certain_flag: float = 0.9
    limit_shift: float = 0.0
    step_weight: float = 0.5
    team_weight: float = 1.0
    team_temperature: float = 2.0
    same_request: float = 0.97

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> Calibration:
        """Build from the shipped file; keys that it lacks keep their defaults."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


class Selector:
    """Decides with a backend, for a fleet, with lessons.

    `memory` keeps the lessons: an open store, the path of one (made by the first lesson), the
    address of a PostgreSQL database, or None for this session only. One that cannot be used changes
    no decision; its `fault` says why.

    The reasoning is worded from what the network read: needs, place, decision. With `own_words` the
    decoder words task, place and decision itself; what it says is checked, but it is still clumsy.
    """

    def __init__(
        self,
        backend: Backend,
        fleet: Fleet | None = None,
        *,
        own_words: bool = False,
        memory: LessonMemory | str | Path | None = None,
    ) -> None:
        self.backend = backend
        self.own_words = own_words
        self.fleet = fleet or _DEFAULT_FLEET
        self._abilities = Abilities(self.fleet)
        self._fleet_words = _words_in_names(self.fleet)
        self.calibration = Calibration.from_dict(backend.calibration)
        self._memory = memory
        self._described: dict[str, Array] = {}

    @property
    def memory(self) -> LessonMemory | None:
        """The lessons; None as long as there are none, which needs no database."""
        if isinstance(self._memory, str | Path):
            if not may_be_there(self._memory):
                return None
            self._memory = _open_store(self._memory)
        return self._memory

    def open_memory(self) -> LessonMemory:
        """Return the lessons, opened if they were not; there may be none in them yet."""
        found = self.memory
        if found is None:
            found = self._memory = _open_store(self._memory)
        return found

    def with_backend(self, backend: Backend) -> Selector:
        """Return a selector with another backend of the same model, and these lessons."""
        other = copy(self)
        other.backend = backend
        return other

    def with_fleet(self, fleet: Fleet) -> Selector:
        """Return a selector for another fleet, with these lessons."""
        other = copy(self)
        other.fleet, other._abilities, other._described = fleet, Abilities(fleet), {}
        other._fleet_words = _words_in_names(fleet)
        return other

    def decide(
        self,
        scenario: Scenario,
        *,
        top_k: int | None = None,
        reasoning: bool = True,
        state: FleetState | None = None,
        exclude: Sequence[str] = (),
        require: Sequence[str] = (),
    ) -> Decision:
        """Decide which robots to send.

        Args:
            scenario: the request, the photo, or both.
            top_k: at most this many robots, the best first; None returns all that suit.
            reasoning: False leaves the written lines out, which is faster.
            state: what is known of the robots now; None is as the fleet says.
            exclude: robots that are not to be sent.
            require: robots that are to be sent, alone or with others.

        Raises:
            ValueError: the photo cannot be read, `top_k` is below 1, a robot is not in the fleet,
                or one that is required cannot be sent; says why.
        """
        if top_k is not None and top_k < max(1, len(require)):
            raise ValueError(f"top_k is {top_k}; ask for {max(1, len(require))} robots or more.")
        now = self.at(state, exclude)
        required = [now.fleet.find(name).name for name in require]
        proposal = self.propose(scenario)
        return now.answer(
            proposal, scenario, top_k=top_k, reasoning=reasoning, require=dict.fromkeys(required)
        )

    def at(self, state: FleetState | None = None, exclude: Sequence[str] = ()) -> Self:
        """Return this selector for the fleet as it is now, less the robots that are left out.

        Raises:
            ValueError: a robot is not in the fleet, or the state does not fit it.
        """
        if state is None and not exclude:
            return self
        _ = self.memory  # opened here, so that it is opened once
        now = copy(self)
        now.fleet = without(self.fleet if state is None else state.applied(self.fleet), exclude)
        return now

    def alternatives(
        self,
        decision: Decision,
        *,
        state: FleetState | None = None,
        exclude: Sequence[str] = (),
    ) -> dict[str, Decision]:
        """Return, for each robot of a decision, what would be decided without it.

        Raises:
            ValueError: the decision carries no scenario, or see `decide`.
        """
        if decision.scenario is None:
            raise ValueError(
                "This decision carries no scenario; give the one that decide() returned."
            )
        proposal = self.propose(decision.scenario)
        return {
            name: self.at(state, [*exclude, name]).answer(
                proposal, decision.scenario, reasoning=False
            )
            for name in decision.robots
            if name in self.fleet
        }

    def replan(
        self,
        decision: Decision,
        failed: Sequence[int],
        *,
        done: Sequence[int] = (),
        state: FleetState | None = None,
        exclude: Sequence[str] = (),
    ) -> Decision:
        """Return the decision with a plan for the rest, after steps of its plan have failed.

        What is done stays as it was; see `planning.replan`. `robots` are those that still have
        something to do.

        Args:
            decision: what `decide` or `replan` returned.
            failed: the steps, from 0, at which their robots failed.
            done: the steps that are finished.
            state: what is known of the robots now; None is as the fleet says.
            exclude: robots that are not to be sent.

        Raises:
            ValueError: a step is not in the plan, or a robot is not in the fleet.
        """
        now = self.at(state, exclude)
        plan = planning.replan(now.fleet, decision.plan, failed, done=done)
        robots = plan.robots or (NO_ROBOT,)
        chance = decision.probabilities
        return replace(
            decision,
            robots=robots,
            primary=robots[0],
            plan=plan.steps,
            rejected=planning.reasons_against(now.fleet, decision.needs, robots, chance),
            reasoning=(),
        )

    def propose(self, scenario: Scenario) -> Proposal:
        """Return what the network says of a scenario, before any rule or lesson.

        Raises:
            ValueError: the photo cannot be read.
        """
        pixels = None
        if scenario.image is not None:
            side = self.backend.image_size
            image = load_image(scenario.image, shortest_px=KEPT_SIDES * side)
            pixels = preprocess(image, side)
        return self.backend.propose(self.as_meant(scenario)[0].task, pixels)

    def answer(
        self,
        proposal: Proposal,
        scenario: Scenario,
        *,
        top_k: int | None = None,
        reasoning: bool = True,
        require: Collection[str] = (),
    ) -> Decision:
        """Decide from what the network said of this scenario; `decide` is `propose`, then this.

        Raises:
            ValueError: a required robot cannot be sent.
        """
        told, (scenario, read_as) = scenario, self.as_meant(scenario)
        needs, certain, team = read_needs(proposal, self.calibration, scenario.task)
        lesson = self._lesson(proposal, scenario, needs)
        allowed: list[str] = []
        if lesson is not None:
            misread = lessons.misread_of(lesson, scenario)
            as_told = certain.without(misread), team != ("team" in misread)
            allowed = [n for n in lessons.robots_of(lesson) if self._allows(n, *as_told)]
            # A lesson that cannot be followed changes nothing, not even what was read.
            if allowed and set(require) <= set(allowed):
                needs = replace(needs.without(misread), environment=needs.environment)
                certain, team = as_told
            else:
                lesson, allowed = None, []
        job = self.split(scenario, proposal) if team else None
        able = {} if team else self._able(proposal, certain)
        sets = self._distribution(proposal, certain, team, job, able)
        if require:
            sets = self._with_required(sets, require, certain, team)
        chosen = max(sets, key=lambda names: sets[names])
        chance = {
            name: sum(p for names, p in sets.items() if name in names) for name in self.fleet.names
        }
        chance |= {**able, NO_ROBOT: sets.get(frozenset(), 0.0)}
        robots = self._ordered(chosen, proposal, chance)
        confidence = self._confidence(sets[chosen])
        # Whoever is required is not cut off.
        robots = sorted(
            allowed or robots, key=lambda name: top_k is not None and name not in require
        )
        robots = robots[:top_k]
        asked = needs if team else certain
        may_grow = top_k is None and not allowed
        plan = self._plan(scenario, asked, robots, team, job, may_grow=may_grow)
        if job is not None and plan:
            needs = _with_steps(needs, plan)
        # Whom a lesson names is sent, with a step or without.
        if job is not None and plan and not allowed:
            in_time = sorted(plan, key=lambda step: step.start_min or 0.0)
            at_work = dict.fromkeys(step.robot for step in in_time if step.robot is not None)
            robots = [*at_work, *(name for name in require if name not in at_work)]
            robots = robots or [NO_ROBOT]
        decision = Decision(
            robots=tuple(robots),
            primary=robots[0],
            environment=needs.environment,
            confidence=confidence,
            probabilities=chance,
            ask=confidence < self.calibration.ask_below,
            needs=needs,
            plan=plan,
            rejected=planning.reasons_against(self.fleet, needs, robots, chance),
            memory=(lessons.sentence(lesson),) if lesson is not None else (),
            lessons=(lesson.id,) if lesson is not None else (),
            scenario=scenario,
            policy=self._policy(proposal),
            read_as=read_as,
        )
        if reasoning:
            decision = replace(decision, reasoning=self._explain(decision, proposal, team))
        return replace(decision, scenario=told) if read_as else decision

    def learn(
        self,
        decision: Decision,
        feedback: Feedback,
        *,
        model: free_text.LanguageModel | None = None,
    ) -> MemoryEntry:
        """Keep a correction, and return it as it is kept.

        The next request that means the same, at the same kind of place, is answered with the
        corrected robots, unless a hard limit forbids them; that answer's `memory` names the lesson.
        A correction that a stated limit forbids altogether is quarantined: kept, never used. So is
        a note from which nobody could tell who is right. What the feedback says was misread counts
        no more, for this very request alone.

        Args:
            decision: what `decide` returned.
            feedback: who is right, and why; without robots, a note that says who.
            model: reads the note where rules find nothing in it; see `memory.free_text`.

        Raises:
            ValueError: the decision carries no scenario, a robot is not in the fleet, the author's
                quota is used up, or the store cannot be used.
        """
        names = [name if name == NO_ROBOT else self.fleet[name].name for name in feedback.robots]
        if decision.scenario is None:
            raise ValueError(
                "This decision carries no scenario; give the one that decide() returned."
            )
        proposal = self.propose(decision.scenario)
        meant, _ = self.as_meant(decision.scenario)
        _, certain, team = read_needs(proposal, self.calibration, meant.task)
        lessons.check_misread(feedback.misread, decision.needs)
        certain, team = certain.without(feedback.misread), team != ("team" in feedback.misread)
        note = lessons.check_note(feedback.note)
        read = free_text.read(note, names, decision, self.fleet, model)
        entry = lessons.entry_from_feedback(
            decision, replace(feedback, robots=read.robots), self._against, team=team, read=read
        )
        if not read.robots:
            entry = lessons.quarantined(entry, read.problem)
        elif not team:
            reason = lessons.contradiction(read.robots, lambda name: self._limits(name, certain))
            entry = lessons.quarantined(entry, reason) if reason else entry
        return self.open_memory().add(entry, proposal.embedding, author=feedback.author)

    def as_meant(self, scenario: Scenario) -> tuple[Scenario, dict[str, str]]:
        """Return the scenario with its words as they were meant, and which were read so."""
        if not scenario.task:
            return scenario, {}
        task, read_as = spelling.shipped().read(scenario.task, self._fleet_words)
        return (replace(scenario, task=task) if read_as else scenario), read_as

    def _lesson(self, proposal: Proposal, scenario: Scenario, needs: Needs) -> MemoryEntry | None:
        memory = self.memory
        if memory is None:
            return None
        same = self.calibration.same_request
        return lessons.recall(memory, proposal.embedding, needs, scenario, same_request=same)

    def _limits(self, name: str, needs: Needs) -> list[str]:
        """Return the stated limits that a robot breaks, whether it is at hand or not."""
        robot = self.fleet[name]
        at_hand = planning.unavailable(robot)
        return [why for why in planning.broken_limits(robot, needs) if why not in at_hand]

    def _against(self, name: str, needs: Needs) -> list[str]:
        if name not in self.fleet:
            return []
        actions = planning.missing_actions(self.fleet[name], needs)
        cannot = [f"cannot {' or '.join(actions)}"] if actions else []
        return self._limits(name, needs) + cannot

    def _allows(self, name: str, certain: Needs, team: bool) -> bool:
        if name == NO_ROBOT:
            return True
        if name not in self.fleet:  # a lesson of another fleet
            return False
        robot = self.fleet[name]
        return not (planning.unavailable(robot) if team else planning.broken_limits(robot, certain))

    def split(self, scenario: Scenario, proposal: Proposal) -> Job | None:
        """Return a job in steps, None where the network sees one step or cannot split."""
        scores = self.backend.split(proposal)
        if len(scores) < 2:
            return None
        meant, _ = self.as_meant(scenario)
        task, tokenizer = one_line(meant.task), self.backend.tokenizer
        assert isinstance(tokenizer, Tokenizer), "only networks with our tokenizer split a job"
        numbers = self.calibration
        stated = [
            (mention, stated_quantities([mention], roles_R[None], numbers.limit_shift))
            for mention, roles_R in zip(proposal.mentions, proposal.roles, strict=True)
        ]
        spans = token_spans(task, tokenizer, MAX_TASK_TOKENS)
        steps = steps_of(task, spans, scores, stated, numbers.certain_flag)
        liked = [
            liked_robots(score, self.backend.propose(step.subtask, None), numbers.step_weight)
            for score, step in zip(scores, steps, strict=True)
        ]
        return Job(tuple(steps), scores, tuple(liked))

    def _plan(
        self,
        scenario: Scenario,
        needs: Needs,
        robots: list[str],
        team: bool,
        job: Job | None,
        *,
        may_grow: bool,
    ) -> tuple[Subtask, ...]:
        """Return the steps with who does them.

        A team's steps go to the robots that were chosen, one at least to each. If it `may_grow`,
        what none of them can do goes to another of the fleet that can.
        """
        if NO_ROBOT in robots:
            return ()
        if job is None:
            words = scenario.task or "look at the place"
            return tuple(planning.assign(self.fleet, robots, needs, task=words, team=team))
        preferences = [
            self._preferences(score, liked_R)
            for score, liked_R in zip(job.scores, job.liked, strict=True)
        ]
        steps = [
            replace(step, unsuited=tuple(n for n, x in liked.items() if x < _NO_CHANCE))
            for step, liked in zip(job.steps, preferences, strict=True)
        ]
        all_alike = all(self._abilities.is_alike.values())
        chosen = Fleet(tuple(self.fleet[name] for name in robots), self.fleet.objective)
        if all_alike:
            kept = one_step_each(chosen, steps, preferences)
            made = planning.allocate(chosen, kept, preferences=preferences)
        else:
            made = planning.allocate(self.fleet, steps, preferences=preferences)
        if made.unassigned and all_alike and may_grow:
            made = planning.allocate(self.fleet, steps, preferences=preferences)
        return made.steps

    def _preferences(self, step: StepScores, liked_R: Array) -> dict[str, float]:
        """Return the logarithm of each robot's chance to suit a step: of one that is alike the
        network's own, of others that they can do it."""
        abilities = self._abilities
        able = {} if all(abilities.is_alike.values()) else abilities.chances(step)
        return {
            name: float(liked_R[slot] if abilities.is_alike[name] else np.log(able[name] + 1e-9))
            for name, slot in abilities.slot_of.items()
        }

    def _distribution(
        self,
        proposal: Proposal,
        certain: Needs,
        team: bool,
        job: Job | None,
        able: Mapping[str, float],
    ) -> dict[frozenset[str], float]:
        """Return P(set) over sets of this fleet's robots; the empty set is No Robot.

        The network speaks of the default robots, and one that is alike stands for one of them
        (`abilities`). One that breaks a limit leaves the sets it is in, and their chance goes to
        what remains of them. A team has two robots or more, and each robot stands for the one that
        it is most like. Of single jobs, every other robot is in all sets or in none: it is able by
        the needs, as they were read, or it is not.
        """
        allowed = [name for name in self.fleet.names if self._allows(name, certain, team)]
        in_all = frozenset(name for name, p in able.items() if p > 0.5)
        sureness = min((max(p, 1 - p) for p in able.values()), default=1.0)
        slot_of = {
            name: self._abilities.slot_of[name]
            for name in allowed
            if team or self._abilities.is_alike[name]
        }
        logits = proposal.subsets.copy()
        if proposal.scene is None:
            logits[0] += self.calibration.no_robot_shift
        temperature = self.calibration.temperature
        if job is not None:
            logits = team_logits(logits, job.liked, self.calibration.team_weight)
            temperature = self.calibration.team_temperature
        if team:
            logits[SIZES < 2] = -np.inf
        chance = _softmax(logits / temperature)
        sets: dict[frozenset[str], float] = {}
        for number, p in enumerate(chance):
            names = in_all.union(name for name, slot in slot_of.items() if number >> slot & 1)
            sets[names] = sets.get(names, 0.0) + sureness * float(p)
        return sets

    def _able(self, proposal: Proposal, certain: Needs) -> dict[str, float]:
        """Return the chance of each robot unlike all default ones to be able to do the job; none
        of those that break a limit or are not at hand."""
        unlike = [name for name, is_alike in self._abilities.is_alike.items() if not is_alike]
        if not unlike:
            return {}
        chances = self._abilities.chances(proposal)
        return {name: chances[name] for name in unlike if self._allows(name, certain, team=False)}

    def _with_required(
        self,
        sets: dict[frozenset[str], float],
        require: Collection[str],
        certain: Needs,
        team: bool,
    ) -> dict[frozenset[str], float]:
        """Return the sets that hold all the required robots."""
        for name in require:
            if not self._allows(name, certain, team):
                robot = self.fleet[name]
                why = planning.unavailable(robot) or planning.broken_limits(robot, certain)
                raise ValueError(
                    f"The {name} is required, but cannot be sent: it {' and '.join(why)}."
                )
        found = {names: p for names, p in sets.items() if names.issuperset(require)}
        return found or {frozenset(require): 0.0}

    def _ordered(
        self, chosen: frozenset[str], proposal: Proposal, chance: Mapping[str, float]
    ) -> list[str]:
        if not chosen:
            return [NO_ROBOT]
        first, abilities = _softmax(proposal.primary), self._abilities
        unlike = [
            name for name in self.fleet.names if name in chosen and not abilities.is_alike[name]
        ]
        told = self._told(proposal, unlike) if len(unlike) > 1 else {}

        def rank(name: str) -> tuple[float, float]:
            if abilities.is_alike[name]:
                return 1 + float(first[abilities.slot_of[name]]), chance[name]
            return told.get(name, 0.0), chance[name]

        # From the fleet's order, so that equals stay in it: a set has another order in every run.
        in_order = [name for name in self.fleet.names if name in chosen]
        return sorted(in_order, key=rank, reverse=True)

    def _told(self, proposal: Proposal, names: Sequence[str]) -> dict[str, float]:
        """Return how near the descriptions of robots are to the request, cosines below 1, for the
        first `_DESCRIBED` of them that have one; each is read once."""
        near: dict[str, float] = {}
        for name in names[:_DESCRIBED]:
            words = self.fleet[name].description
            if not words:
                continue
            if words not in self._described:
                self._described[words] = self.backend.propose(words[:_READ], None).embedding
            one, other = self._described[words], proposal.embedding
            near[name] = float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
        return near

    def _policy(self, proposal: Proposal) -> dict[str, float]:
        """Return whom the network would send first, a distribution over this fleet's outcomes.

        Robots that stand for one default robot share its chance; where nobody stands for one, its
        chance goes to the others in proportion.
        """
        first = _softmax(proposal.primary)
        slots = [self._abilities.slot_of[name] for name in self.fleet.names]
        sharing = Counter(slots)
        shares = [float(first[slot]) / sharing[slot] for slot in slots] + [float(first[-1])]
        whole = sum(shares)
        return {
            name: share / whole for name, share in zip(self.fleet.outcomes, shares, strict=True)
        }

    def _confidence(self, p: float) -> float:
        p = min(max(p, 1e-6), 1 - 1e-6)
        odds = np.log(p / (1 - p))
        shifted = self.calibration.confidence_scale * odds + self.calibration.confidence_shift
        return float(1 / (1 + np.exp(-shifted)))

    def _explain(
        self, decision: Decision, proposal: Proposal, team: bool
    ) -> tuple[str, str, str, str]:
        task = decision.scenario.task if decision.scenario else None
        place = _capitalised(decision.environment.replace("_", " "))
        asked = describe_needs(decision.needs) if task else "no request; the photo alone"
        if task and not decision.needs.actions:
            asked = f"no action that a robot takes was read; {asked}"
        sentence = decision_sentence(decision, team)
        if self.own_words:
            written = self._own_words(decision, proposal)
            numbers = {mention.value for mention in find_quantities(task or "")}
            if not new_numbers(written.task, numbers):
                asked = written.task
            if not new_numbers(written.environment, numbers):
                place = f"{place}. {_capitalised(written.environment)}"
            sentence = checked_decision(written, decision.robots, self.fleet, numbers) or sentence
        why = []
        for name in decision.robots:
            facts = (
                planning.reasons_for(self.fleet[name], _needs_for(name, decision))
                if name in self.fleet
                else ["no robot of the fleet can do the core of this"]
            )
            why.append(f"{name}: {', '.join(facts)}")
        why += [f"not {name}: {reason}" for name, reason in decision.rejected.items()]
        return (
            f"Task: {_capitalised(asked)}",
            f"Environment: {place}",
            f"Robots: {'; '.join(why)}",
            f"Decision: {_capitalised(sentence)}",
        )

    def _own_words(self, decision: Decision, proposal: Proposal) -> Reasoning:
        # The decoder knows the default robots; one of another name is told as the one it stands
        # for.
        told = [
            _DEFAULT_FLEET.names[self._abilities.slot_of[name]] if name in self.fleet else name
            for name in decision.robots
        ]
        written = parse_reasoning(self.backend.write(proposal, tuple(dict.fromkeys(told))))
        assert written is not None, "the decoder's grammar lets nothing else out"
        return written


class EmberVLM(Selector):
    """The selector with the weights that ship, under the project's name."""

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        *,
        fleet: Fleet | None = None,
        backend: Backend | None = None,
        memory: LessonMemory | str | Path | None = None,
    ) -> EmberVLM:
        """Load a model file; None is the one that ships, run by the C engine.

        `memory` keeps the lessons; see `Selector`.

        Raises:
            ValueError: the file is missing or damaged, or the engine is not compiled here.
        """
        if backend is None:
            from embervlm.backends import load_backend

            backend = load_backend("native", path)
        return cls(backend, fleet, memory=memory)

    def select_robots(
        self,
        image: str | Path | bytes | None = None,
        task: str | None = None,
        *,
        top_k: int | None = None,
        reasoning: bool = True,
    ) -> Decision:
        """Decide for a photo, a request, or both; see `Selector.decide`."""
        return self.decide(Scenario(task=task, image=image), top_k=top_k, reasoning=reasoning)

    def extract_robot_selections(self, outputs: Decision | Sequence[Decision]) -> list[list[str]]:
        """Return the robots of each decision in order, `["No Robot"]` where none is sent."""
        return [list(decision.robots) for decision in _listed(outputs)]

    def get_reasoning_analysis(self, outputs: Decision | Sequence[Decision]) -> ReasoningAnalysis:
        """Return what was decided, what the policy says and what is right about the reasoning.

        Raises:
            ValueError: a decision has no reasoning, or was not made by `decide`.
        """
        decisions = _listed(outputs)
        if not all(decision.policy for decision in decisions):
            raise ValueError("A decision has no policy; give what decide() returned.")
        checks = [
            checks_of(write_thinking(Thinking.of(decision)), decision, self.fleet)
            for decision in decisions
        ]
        return {
            "robot_probabilities": [dict(decision.policy) for decision in decisions],
            "reasoning_quality": [sum(found.values()) / len(found) for found in checks],
            "robot_selections": self.extract_robot_selections(decisions),
        }


class ReasoningAnalysis(TypedDict):
    """What `EmberVLM.get_reasoning_analysis` tells of decisions, an entry for each.

    `robot_probabilities` is a softmax over all outcomes, six of the default fleet: the network's
    own opinion of whom to send first (the head `primary`), before rules and lessons.
    `Decision.probabilities` are something else: for each robot the chance that it is in the set.
    `reasoning_quality` is the share of `faithfulness.checks_of` that hold, 0 to 1. The selector
    words its lines by rules and shows no own words of the decoder that fail them, so a decision
    that falls short has been altered, or has met a fault; `checks_of` measures any writer's text.
    """

    robot_probabilities: list[dict[str, float]]
    reasoning_quality: list[float]
    robot_selections: list[list[str]]


def _listed(outputs: Decision | Sequence[Decision]) -> list[Decision]:
    return [outputs] if isinstance(outputs, Decision) else list(outputs)


def _with_steps(needs: Needs, plan: Sequence[Subtask]) -> Needs:
    """Return what a job needs by its whole words and by its steps."""
    of_steps = [step.needs for step in plan if step.needs is not None]
    actions = [*needs.actions, *(action for one in of_steps for action in one.actions)]
    flags = needs.flags.union(*(one.flags for one in of_steps))
    return replace(needs, actions=tuple(dict.fromkeys(actions)), flags=flags)


def _needs_for(name: str, decision: Decision) -> Needs:
    """Return those of a decision's needs that a robot's own steps have; all of a single job's."""
    own = [s.needs for s in decision.plan if s.robot == name and s.needs is not None]
    if len(decision.plan) < 2 or not own:
        return decision.needs
    whole = decision.needs
    actions = {action for needs in own for action in needs.actions}
    limits = {item for needs in own for item in needs.quantities.items()}
    return Needs(
        tuple(action for action in whole.actions if action in actions),
        whole.environment,
        {key: value for key, value in whole.quantities.items() if (key, value) in limits},
        frozenset(flag for needs in own for flag in needs.flags),
    )


def read_needs(
    proposal: Proposal, calibration: Calibration, task: str | None
) -> tuple[Needs, Needs, bool]:
    """Return what the job needs, the part of it that is certain enough for hard limits, and whether
    it is a team job.

    Where no action is likelier than not, the likeliest is told, and rules nothing out.
    """
    actions = tuple(a for a, logit in zip(ACTIONS, proposal.actions, strict=True) if logit > 0)
    best = int(proposal.actions.argmax())
    told = actions or ((ACTIONS[best],) if proposal.actions[best] > _LIKELY_ACTION else ())
    environment = ENVIRONMENTS[int(proposal.environment.argmax())]
    likely, certain = set(), set()
    sure = np.log(calibration.certain_flag / (1 - calibration.certain_flag))
    for flag, logit in zip(FLAGS, proposal.flags, strict=True):
        if logit > 0:
            likely.add(flag)
        if logit > sure:
            certain.add(flag)
    quantities = stated_quantities(proposal.mentions, proposal.roles, calibration.limit_shift)
    places = _softmax(proposal.environment)
    sure_place = environment if places.max() > calibration.certain_flag else "none"
    needs = Needs(told, environment, quantities, frozenset(likely))
    hard = Needs(actions, sure_place, quantities, frozenset(certain))
    return needs, hard, proposal.team > 0 and bool(task)


def stated_quantities(
    mentions: Sequence[Mention], roles_MR: NDArray[np.float32], limit_shift: float = 0.0
) -> dict[str, float]:
    """Return the quantities that the request states; of several for one key the largest counts.

    `limit_shift` is added to all roles but the last, "none of these".
    """
    found: dict[str, float] = {}
    for mention, roles in zip(mentions, roles_MR, strict=True):
        limits = roles[: len(QUANTITIES)] + limit_shift
        role = int(limits.argmax())
        if limits[role] <= roles[len(QUANTITIES)]:
            continue
        factor = FACTORS[mention.kind].get(QUANTITIES[role])
        if factor is not None:
            key = QUANTITIES[role]
            value = round(mention.value * factor, 4)
            smallest = key == "width_m"
            found[key] = (min if smallest else max)(found.get(key, value), value)
    return found


def decision_sentence(decision: Decision, team: bool) -> str:
    """Return the decision in one sentence that names every decided robot once."""
    first, *others = decision.robots
    if first == NO_ROBOT:
        return "No Robot: none of the fleet can do the core of this."
    if not others:
        return f"Send the {first}."
    rest = " and the ".join(others)
    if team:
        return f"Send the {first} and the {rest} as a team."
    return f"Send the {first}; the {rest} would do as well."


def checked_decision(
    written: Reasoning, robots: Sequence[str], fleet: Fleet, stated_numbers: set[float]
) -> str | None:
    """Return the decoder's line on the decision, or None unless it names each decided robot once,
    no others, and no new number."""
    text = written.decision
    named = {name for name in fleet.outcomes if name.lower() in text.lower()}
    once = all(text.lower().count(name.lower()) == 1 for name in robots)
    right = named == set(robots) and once and not new_numbers(text, stated_numbers)
    return text if right else None


def new_numbers(text: str, stated_numbers: set[float]) -> set[float]:
    """Return the quantities of a line that the request does not state."""
    return {mention.value for mention in find_quantities(text)} - stated_numbers


def _open_store(path: str | Path | LessonMemory | None) -> LessonMemory:
    """Open a store at a place; None is one for this session, without quotas."""
    from embervlm.memory.store import IN_MEMORY, LessonStore  # SQLite: only with lessons

    if path is None:
        return LessonStore(IN_MEMORY, quotas=None)
    assert isinstance(path, str | Path)
    return LessonStore(path)


def _words_in_names(fleet: Fleet) -> frozenset[str]:
    """Return the words of the robots' names, which nobody mistypes into something else."""
    names = " ".join(fleet.names).lower()
    return frozenset(spelling.WORD.findall(names))


def _capitalised(line: str) -> str:
    return line[:1].upper() + line[1:]


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shares = np.exp(logits - logits.max())
    probabilities: NDArray[np.float32] = shares / shares.sum()
    return probabilities
