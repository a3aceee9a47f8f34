"""The front door: a scenario goes in, a decision comes out, and a correction is remembered.

    selector = Selector(load_backend("native", SHIPPED))
    decision = selector.decide(Scenario(task="reach the people on the roof", image="flood.jpg"))

The network proposes; planning disposes: a robot that breaks a stated hard limit leaves every set it
is in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from embervlm import deciding, planning, spelling, teamwork
from embervlm.abilities import Abilities
from embervlm.backends.base import Array, Backend, Proposal
from embervlm.explaining import against, explain, own_words, taught_otherwise
from embervlm.fleet import NO_ROBOT, Fleet
from embervlm.imaging import KEPT_SIDES, load_image, preprocess
from embervlm.live import FleetState, without
from embervlm.memory import free_text, lessons
from embervlm.memory.entries import MemoryEntry
from embervlm.memory.home import may_be_there
from embervlm.planning.costs import Step, lasts_not, obstacles
from embervlm.prompts import one_line
from embervlm.reading import Calibration, read_needs
from embervlm.scenario import Decision, Feedback, Needs, Scenario, Subtask
from embervlm.splitting import Job

if TYPE_CHECKING:
    from embervlm.memory.protocol import LessonMemory

_DEFAULT_FLEET = Fleet.default()

# So many descriptions are read for one request, each up to so many characters.
_DESCRIBED, _READ = 32, 500


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
        other = self._with_lessons()
        other.backend = backend
        return other

    def with_fleet(self, fleet: Fleet) -> Selector:
        """Return a selector for another fleet, with these lessons."""
        other = self._with_lessons()
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
        now = self.at(state, exclude)
        required = dict.fromkeys(now.fleet.find(name).name for name in require)
        if top_k is not None and top_k < max(1, len(required)):
            raise ValueError(f"top_k is {top_k}; ask for {max(1, len(required))} robots or more.")
        proposal = self.propose(scenario)
        return now.answer(proposal, scenario, top_k=top_k, reasoning=reasoning, require=required)

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
        top_k: int | None = None,
        state: FleetState | None = None,
        exclude: Sequence[str] = (),
        require: Sequence[str] = (),
    ) -> dict[str, Decision]:
        """Return, for each robot of a decision, what would be decided without it, all else as
        `decide` was asked; one that is required is not required then.

        Raises:
            ValueError: the decision carries no scenario, or see `decide`.
        """
        if decision.scenario is None:
            raise ValueError(
                "This decision carries no scenario; give the one that decide() returned."
            )
        proposal = self.propose(decision.scenario)
        required = [self.fleet.find(name).name for name in require]
        return {
            name: self.at(state, [*exclude, name]).answer(
                proposal,
                decision.scenario,
                top_k=top_k,
                reasoning=False,
                require=[other for other in required if other != name],
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
        something to do, whether the decision sent them or not; where all is done, nobody, and
        nothing is said against the others.

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
        chance = decision.probabilities
        liked = None
        if len(decision.plan) == 1:  # whom it suits, nothing but the decision says
            liked = [{name: math.log(max(chance.get(name, 0.0), 1e-9)) for name in now.fleet.names}]
        plan = planning.replan(now.fleet, decision.plan, failed, done=done, preferences=liked)
        robots = plan.robots or (NO_ROBOT,)
        is_open = any(not step.done for step in plan.steps)
        others = liked is not None and not {*robots} <= {*decision.robots} and is_open
        return replace(
            decision,
            robots=robots,
            primary=robots[0],
            plan=plan.steps,
            ask=decision.ask or bool(plan.unassigned) or others,
            rejected=planning.reasons_in_plan(now.fleet, plan.steps, robots, chance)
            if is_open
            else {},
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
        if top_k is not None:  # what cuts nobody off changes nothing
            whole = self.answer(proposal, scenario, reasoning=reasoning, require=require)
            if len(whole.robots) <= top_k:
                return whole
        told, (scenario, read_as) = scenario, self.as_meant(scenario)
        needs, certain, team = read_needs(proposal, self.calibration, scenario.task)
        lesson, allowed, needs, certain, team, job = self._followed(
            proposal, scenario, needs, certain, team, require
        )
        sets, able, team, job = self._chances(proposal, scenario, certain, team, job, lesson)
        # Whoever is required goes too; how likely that is to be right stays what it was.
        wanted = sets
        if require:
            wanted = deciding.with_required(
                sets, require, fleet=self.fleet, certain=certain, team=team
            )
        chosen = max(wanted, key=lambda names: wanted[names])
        chance = {
            name: sum(p for names, p in sets.items() if name in names) for name in self.fleet.names
        }
        chance |= {**able, NO_ROBOT: sets.get(frozenset(), 0.0)}
        robots = deciding.ordered(
            chosen,
            chance,
            proposal=proposal,
            abilities=self._abilities,
            nearness=lambda names: self._nearness(proposal, names),
        )
        # Whoever is required is not cut off, and goes where one suffices.
        first_required = top_k is not None or not team
        robots = sorted(allowed or robots, key=lambda name: first_required and name not in require)
        if team and not allowed:  # one of each sort before the second of any
            robots = self._in_turn(robots, require)
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
            # Others than the likeliest set, where the plan asks for them.
            if top_k is None or robots == [NO_ROBOT]:
                chosen = frozenset(robots) - {NO_ROBOT}
        signs = deciding.signs_of(sets, chosen, proposal, self._abilities)
        has_photo = proposal.scene is not None
        confidence = deciding.confidence(signs, self.calibration, has_photo=has_photo)
        is_whole = all(step.robot is not None for step in plan)
        decision = Decision(
            robots=tuple(robots),
            primary=robots[0],
            environment=needs.environment,
            confidence=confidence,
            signs=signs,
            probabilities=chance,
            ask=confidence < self.calibration.ask_below or bool(proposal.unread) or not is_whole,
            needs=needs,
            plan=plan,
            rejected=self._reasons(needs, plan if job is not None else (), robots, chance),
            memory=(lessons.sentence(lesson),) if lesson is not None else (),
            lessons=(lesson.id,) if lesson is not None else (),
            scenario=scenario,
            policy=deciding.policy(proposal, self.fleet, self._abilities),
            read_as=read_as,
        )
        decision = self._told(decision, proposal, lesson, team, reasoning, [*require, *allowed])
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
            replace(decision, scenario=meant),
            replace(feedback, robots=read.robots),
            self._against,
            team=team,
            read=read,
        )
        if not read.robots:
            entry = lessons.quarantined(entry, read.problem)
        else:
            job = self.split(meant, proposal, feedback.misread) if team else None
            reason = lessons.contradiction(
                read.robots, lambda name: self._limits(name, certain, job)
            )
            entry = lessons.quarantined(entry, reason) if reason else entry
        return self.open_memory().add(entry, proposal.embedding, author=feedback.author)

    def as_meant(self, scenario: Scenario) -> tuple[Scenario, dict[str, str]]:
        """Return the scenario with its words as they were meant, and which were read so."""
        if not scenario.task:
            return scenario, {}
        task, read_as = spelling.shipped().read(scenario.task, self._fleet_words)
        return (replace(scenario, task=task) if read_as else scenario), read_as

    def _with_lessons(self) -> Self:
        """Return a copy with these lessons, those of this session that are not learnt yet too."""
        if self._memory is None:
            self.open_memory()
        return copy(self)

    def _lesson(self, proposal: Proposal, scenario: Scenario, needs: Needs) -> MemoryEntry | None:
        memory = self.memory
        if memory is None:
            return None
        same = self.calibration.same_request
        return lessons.recall(
            memory, proposal.embedding, needs, scenario, same_request=same, fleet=self.fleet
        )

    def _followed(
        self,
        proposal: Proposal,
        scenario: Scenario,
        needs: Needs,
        certain: Needs,
        team: bool,
        require: Collection[str],
    ) -> tuple[MemoryEntry | None, list[str], Needs, Needs, bool, Job | None]:
        """Return the lesson that is followed, the robots that it sends, what is needed, certain and
        whether it is a team's job by it, and its steps; without one what was read, and no steps."""
        lesson = self._lesson(proposal, scenario, needs)
        if lesson is None:
            return None, [], needs, certain, team, None
        misread = lessons.misread_of(lesson, scenario)
        as_told, together = certain.without(misread), team != ("team" in misread)
        names = lessons.robots_of(lesson)
        allowed = deciding.allowed_of(names, self.fleet, as_told, team=together)
        job = None
        if together:
            job = self.split(scenario, proposal, misread)
            keep = [n for n in allowed if n == NO_ROBOT or not self._limits(n, as_told, job)]
            # Without steps one that keeps every limit is enough: it may do what asks for them.
            allowed = allowed if keep and job is None else keep
        # A lesson that cannot be followed changes nothing, not even what was read.
        if not allowed or not set(require) <= set(allowed):
            return None, [], needs, certain, team, None
        needs = replace(needs.without(misread), environment=needs.environment)
        return lesson, allowed, needs, as_told, together, job

    def _chances(
        self,
        proposal: Proposal,
        scenario: Scenario,
        certain: Needs,
        team: bool,
        job: Job | None,
        lesson: MemoryEntry | None,
    ) -> tuple[dict[frozenset[str], float], dict[str, float], bool, Job | None]:
        """Return what `_sets` does, whether it is a team's job, and its steps; where no lesson says
        and it may be either, it is the one whose best set is likelier."""
        # Where it may be a team's job, its steps are asked too.
        may_be = (
            lesson is None and bool(scenario.task) and proposal.team > self.calibration.team_from
        )
        if lesson is None:
            job = self.split(scenario, proposal) if team or may_be else None
        sets, able = self._sets(proposal, certain, team, job if team else None)
        if job is not None and not team:
            as_team, unlike = self._sets(proposal, certain, True, job)
            odds = deciding.odds_of_team(proposal, job, self.calibration)
            if odds * max(as_team.values()) > max(sets.values()):
                sets, able, team = as_team, unlike, True
            else:
                job = None
        return sets, able, team, job

    def _told(
        self,
        decision: Decision,
        proposal: Proposal,
        lesson: MemoryEntry | None,
        team: bool,
        reasoning: bool,
        named: Collection[str],
    ) -> Decision:
        """Return a decision with the reasons that its lesson changes, with what stands against the
        robots that a person `named`, and with its reasoning where it is asked for."""
        scenario = decision.scenario
        assert scenario is not None
        misread: frozenset[str] = frozenset()
        if lesson is not None:
            taught = lessons.robots_of(lesson)
            rejected = taught_otherwise(decision.rejected, lesson.id, taught)
            decision = replace(decision, rejected=rejected)
            misread = lessons.misread_of(lesson, scenario)
        # A person may overrule what was read, and is told of it.
        stands = {
            name: against(name, decision, self.fleet, misread)
            for name in decision.robots
            if name in self.fleet and name in named
        }
        if any(stands.values()):
            decision = replace(decision, ask=True)
        if not reasoning:
            return decision
        slot_of = self._abilities.slot_of
        written = own_words(decision, proposal, self.backend, slot_of) if self.own_words else None
        words = one_line(scenario.task)
        unread = [words[mention.start : mention.end] for mention in proposal.unread]
        lines = explain(
            decision, self.fleet, team=team, written=written, unread=unread, named=stands
        )
        return replace(decision, reasoning=lines)

    def _limits(self, name: str, needs: Needs, job: Job | None = None) -> list[str]:
        """Return the stated limits that a robot breaks, whether it is at hand or not; of a job in
        steps those of the step in which it breaks the fewest."""
        robot = self.fleet[name]
        at_hand = planning.unavailable(robot)
        asked = [needs] if job is None else [step.needs for step in job.steps]
        broken = min((planning.broken_limits(robot, one) for one in asked), key=len)
        return [why for why in broken if why not in at_hand]

    def _against(self, name: str, needs: Needs) -> list[str]:
        if name not in self.fleet:
            return []
        actions = planning.missing_actions(self.fleet[name], needs)
        cannot = [f"cannot {' or '.join(actions)}"] if actions else []
        return self._limits(name, needs) + cannot

    def split(
        self, scenario: Scenario, proposal: Proposal, misread: Collection[str] = ()
    ) -> Job | None:
        """Return a job in steps, None where the network sees one step or cannot split; what was
        misread is no need of a step."""
        meant, _ = self.as_meant(scenario)
        job = teamwork.split(self.backend, self.calibration, meant.task, proposal)
        if job is None or not misread:
            return job
        steps = (replace(step, needs=step.needs.without(misread)) for step in job.steps)
        return replace(job, steps=tuple(steps))

    def _sets(
        self, proposal: Proposal, certain: Needs, team: bool, job: Job | None
    ) -> tuple[dict[frozenset[str], float], dict[str, float]]:
        """Return P(set) as `deciding.distribution` does, and what `able_robots` says for it."""
        may_go = deciding.allowed_of(self.fleet.names, self.fleet, certain, team=team)
        if job is not None:  # of robots unlike all default ones, those that can do a step
            may_go = [
                name
                for name in may_go
                if self._abilities.is_alike[name]
                or not all(
                    obstacles(self.fleet[name], step, self.fleet.objective) for step in job.steps
                )
            ]
        able = {} if team else deciding.able_robots(proposal, self._abilities, may_go)
        sets = deciding.distribution(
            proposal,
            self._abilities,
            calibration=self.calibration,
            allowed=may_go,
            able=able,
            team=team,
            job=job,
        )
        return sets, able

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
        """Return the steps with who does them; see `teamwork.allocated`."""
        if NO_ROBOT in robots:
            return ()
        if job is None:
            words = scenario.task or "look at the place"
            return tuple(planning.assign(self.fleet, robots, needs, task=words, team=team))
        return teamwork.allocated(self.fleet, self._abilities, robots, job, may_grow=may_grow)

    def _in_turn(self, robots: Sequence[str], require: Collection[str]) -> list[str]:
        """Return robots in their order, but of those that stand for the same default one the first
        before the second of any; the required ones in front."""
        seen: Counter[object] = Counter()
        turn = {}
        for name in robots:
            sort = self._abilities.slot_of[name] if self._abilities.is_alike.get(name) else name
            turn[name] = seen[sort]
            seen[sort] += 1
        return sorted(robots, key=lambda name: (name not in require, turn[name]))

    def _reasons(
        self,
        needs: Needs,
        steps: Sequence[Subtask],
        robots: Sequence[str],
        chance: Mapping[str, float],
    ) -> dict[str, str]:
        """Return why the others are not sent: each held against a job's steps, if it has some."""
        if steps:
            return planning.reasons_in_plan(self.fleet, steps, robots, chance)
        reasons = planning.reasons_against(self.fleet, needs, robots, chance)
        for name in reasons:
            robot = self.fleet[name]
            if robot.battery < 1 and not planning.broken_limits(robot, needs):
                too_long = lasts_not(robot, Step("", needs), self.fleet.objective)
                reasons[name] = "; ".join(too_long) or reasons[name]
        return reasons

    def _nearness(self, proposal: Proposal, names: Sequence[str]) -> dict[str, float]:
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


def _with_steps(needs: Needs, plan: Sequence[Subtask]) -> Needs:
    """Return what a job needs by its whole words and by its steps."""
    of_steps = [step.needs for step in plan if step.needs is not None]
    actions = [*needs.actions, *(action for one in of_steps for action in one.actions)]
    flags = needs.flags.union(*(one.flags for one in of_steps))
    return replace(needs, actions=tuple(dict.fromkeys(actions)), flags=flags)


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
