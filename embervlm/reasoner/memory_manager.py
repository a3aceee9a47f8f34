"""A language model as the one who reviews answers and keeps the memory: VITA-RMM's manager.

    manager = ReasoningMemoryManager(open_model("local:build/rmm"))     # what `rmm train` left
    manager.review(problem, [Attempt(text, answer)], found, told=None)

VITA-RMM fine-tunes Qwen2.5 with LoRA (Hu et al. 2022) on simulated reviews
(github.com/equinox2333/VITA, README); `fine_tuning` and `simulation` do that here. Any other model
may stand here too, untrained, as long as it keeps to the form. What does not is counted in
`malformed` and ignored: the answer is then left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from embervlm.memory.entries import MemoryEntry
from embervlm.reasoner.feedback import Told
from embervlm.reasoner.managers import Attempt, Reviewed
from embervlm.reasoner.models import LanguageModel
from embervlm.reasoner.problems import Problem
from embervlm.reasoner.prompts import Review, parse_review, review_prompt
from embervlm.training.teachers import NoAnswerError


class ReasoningMemoryManager:
    """Asks a model for each review, in the form of `prompts.parse_review`.

    A source that knows the gold is believed more than the model: its verdict stands, and where the
    model's review cannot be read or contradicts it, its own words are the feedback.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.malformed = 0
        self.unanswered = 0

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    def review(
        self,
        problem: Problem,
        attempts: Sequence[Attempt],
        found: Sequence[MemoryEntry],
        told: Told | None,
        *,
        seed: int = 0,
    ) -> Reviewed:
        """Ask for a review of the last attempt; see the class."""
        said = told.sentence() if told else ""
        prompt = review_prompt(problem, found, attempts[-1].text, said)
        asked = f"{prompt.system}\n\n{prompt.words}"
        try:
            text = self._model.ask(prompt, None, seed=seed).text
        except NoAnswerError as error:
            if error.out_of_reach:
                raise
            self.unanswered += 1
            return Reviewed(_of_source(told), asked, "")
        review = parse_review(text)
        if review is None:
            self.malformed += 1
            return Reviewed(_of_source(told), asked, text)
        if told is not None and told.right != review.accepted:
            feedback = "" if told.right else said
            review = Review(told.right, feedback, review.operations)
        return Reviewed(review, asked, text)


def _of_source(told: Told | None) -> Review | None:
    """Return the review that a source's word alone makes; None without one."""
    if told is None:
        return None
    return Review(told.right, "" if told.right else told.sentence())
