"""The selector under the project's own name: with the weights that ship, and to and from the Hub.

model = EmberVLM.from_pretrained()
model.select_robots(image="flood.jpg", task="reach the people on the roof").robots
model.save_pretrained("my-model")      # for others: EmberVLM.from_pretrained("my-model")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from embervlm.backends.base import Backend
from embervlm.faithfulness import checks_of
from embervlm.fleet import Fleet
from embervlm.prompts import Thinking, write_thinking
from embervlm.scenario import Decision, Feedback, Scenario
from embervlm.selector import Selector

if TYPE_CHECKING:
    from embervlm.live import FleetState
    from embervlm.memory.entries import MemoryEntry
    from embervlm.memory.free_text import LanguageModel
    from embervlm.memory.protocol import LessonMemory


class EmberVLM(Selector):
    """The selector with the weights that ship, under the project's name.

    Several threads may use one; the engine answers them one after the other.

    Attributes:
        source: the GGUF file that it was loaded from; None where a backend was given instead.
        revision: the whole commit, of a model from the Hub.
    """

    source: Path | None = None
    revision: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        *,
        revision: str | None = None,
        fleet: Fleet | None = None,
        backend: Backend | None = None,
        memory: LessonMemory | str | Path | None = None,
    ) -> EmberVLM:
        """Load a model, run by the C engine unless a backend is given.

        Args:
            path: a GGUF file, a folder that `save_pretrained` wrote, or "owner/name" on the Hugging
                Face Hub; None is the model that ships.
            revision: of a model on the Hub a commit, a tag or a branch; None is its newest.
            fleet: the robots; None is those of the folder, or else the default five.
            backend: runs the model in place of the engine.
            memory: keeps the lessons; see `Selector`.

        Raises:
            ValueError: the model is missing, damaged or cannot be fetched, or the engine is not
                compiled here.
        """
        commit, file = None, None if path is None else Path(path)
        if path is not None and not Path(path).is_file():
            from embervlm import hub

            if hub.is_name(path):
                found = hub.pull(str(path), revision=revision)
                file, commit = found.folder, found.commit
        if revision is not None and commit is None:
            raise ValueError(
                f"revision is {revision!r}, which only a model on the Hub has; give its name, such "
                "as owner/name, or leave the revision out."
            )
        if file is not None and file.is_dir():
            from embervlm import hub

            description = hub.check(file)
            fleet = fleet or Fleet.from_yaml(file / description.fleet)
            file = file / description.model
        if backend is None:
            from embervlm.backends import load_backend
            from embervlm.checkpoint import SHIPPED

            file = file or SHIPPED
            backend = load_backend("native", file)
        model = cls(backend, fleet, memory=memory)
        model.source, model.revision = file, commit
        return model

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        report: str | Path | Mapping[str, Any] | None = None,
        licence: str | None = None,
    ) -> Path:
        """Write a folder for others: model, fleet, configuration and card; lessons stay out of it.

        Args:
            folder: new, or empty.
            report: what `embervlm eval --json` wrote of this model, for the card's figures.
            licence: as the Hub names them; None is that of the model that ships, of others none.

        Raises:
            ValueError: the folder holds something, the report is of another model, or this was not
                loaded from a file.
        """
        from embervlm import hub

        if self.source is None:
            raise ValueError(
                "This model was made of a backend; load it from its GGUF file to save it."
            )
        report = Path(report) if isinstance(report, str) else report
        hub.save(Path(folder), [self.source], fleet=self.fleet, report=report, licence=licence)
        return Path(folder)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        report: str | Path | Mapping[str, Any] | None = None,
        licence: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face Hub; return the commit.

        Args:
            name: "owner/name"; the repository is made if it is not there.
            private: True never uploads to a public repository; None is the account's default.
            token: of an account that may write; None is the one that is logged in.
            report: see `save_pretrained`.
            licence: see `save_pretrained`.

        Raises:
            ValueError: see `save_pretrained`; there is no token, or the Hub refuses.
        """
        import tempfile  # and with it OpenSSL, which a decision does without

        from embervlm import hub

        with tempfile.TemporaryDirectory() as place:
            folder = self.save_pretrained(Path(place) / "model", report=report, licence=licence)
            return hub.push(folder, name, private=private, token=token)

    def select_robots(
        self,
        image: str | Path | bytes | None = None,
        task: str | None = None,
        *,
        top_k: int | None = None,
        reasoning: bool = True,
    ) -> Decision:
        """Decide for a photo, a request, or both; see `Selector.decide`.

        Raises:
            ValueError: `top_k` is no whole number, or see `Selector.decide`.
        """
        if top_k is not None and not _is_whole(top_k):
            raise ValueError(f"top_k must be a whole number or None, not {type(top_k).__name__}.")
        return self.decide(Scenario(task=task, image=image), top_k=top_k, reasoning=reasoning)

    def learn(
        self,
        decision: Decision,
        feedback: Feedback,
        *,
        model: LanguageModel | None = None,
    ) -> MemoryEntry:
        """Keep a correction, and return it as it is kept; see `Selector.learn`.

        Raises:
            ValueError: the decision or the feedback is of another type, or see `Selector.learn`.
        """
        for name, given, kind in [
            ("decision", decision, Decision),
            ("feedback", feedback, Feedback),
        ]:
            if not isinstance(given, kind):
                raise ValueError(
                    f"The {name} must be a {kind.__name__}, not {type(given).__name__}."
                )
        return super().learn(decision, feedback, model=model)

    def extract_robot_selections(self, outputs: Decision | Sequence[Decision]) -> list[list[str]]:
        """Return the robots of each decision in order, `["No Robot"]` where none is sent."""
        return [list(decision.robots) for decision in _listed(outputs)]

    def get_reasoning_analysis(
        self,
        outputs: Decision | Sequence[Decision],
        *,
        state: FleetState | None = None,
        exclude: Sequence[str] = (),
    ) -> ReasoningAnalysis:
        """Return what was decided, what the policy says and what is right about the reasoning.

        Args:
            outputs: what `decide` returned.
            state: as given to `decide`, for the reasons are held against the robots as they were.
            exclude: as given to `decide`.

        Raises:
            ValueError: a decision has no reasoning, or was not made by `decide`; a robot is not in
                the fleet.
        """
        decisions = _listed(outputs)
        if not all(decision.policy for decision in decisions):
            raise ValueError("A decision has no policy; give what decide() returned.")
        fleet = self.at(state, exclude).fleet
        checks = [
            checks_of(write_thinking(Thinking.of(decision)), decision, fleet)
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


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
