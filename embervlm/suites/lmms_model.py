"""Our models under lmms-eval's interface; only lmms-eval imports this module.

Tasks whose names begin with `embervlm_` (those of `embervlm data export-suite lmms-eval`) are asked
as requests: which robots to send. Any other question goes to the decoder of `ember-37m`; the
selector alone does not answer it, and an empty answer is what the task then scores.
"""

from __future__ import annotations

import io
from typing import Any

from lmms_eval.api.model import lmms

from embervlm.endpoint import NoAnswerError
from embervlm.reasoner.loop import one_photo
from embervlm.suites.own import OURS, open_own

TASKS = "embervlm_"


class EmberVLM(lmms):
    """The shipped model, or the file that `--model_args model=FILE` names."""

    is_simple = True

    def __init__(
        self,
        model: str = "",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """Load the model; lmms-eval gives the other settings to every model, and one question at a
        time on the processor is all there is here."""
        super().__init__()
        self._model = open_own(f"{OURS}{model}")

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Return an answer to each of lmms-eval's requests."""
        answers = []
        for context, _, doc_to_visual, doc_id, task, split in (one.args for one in requests):
            pictures = doc_to_visual(self.task_dict[task][split][doc_id]) or []
            photo = one_photo(tuple(_png(picture) for picture in pictures))
            try:
                answer = self._model.answer(context, photo, request=task.startswith(TASKS))
            except NoAnswerError:
                answer = ""
            answers.append(answer)
        return answers

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Refuse: the selector's decision has no likelihood of words.

        Raises:
            ValueError: always.
        """
        raise ValueError("embervlm answers in words; choose tasks of the type generate_until.")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Refuse: one request is read at a time.

        Raises:
            ValueError: always.
        """
        raise ValueError("embervlm reads one question at a time; choose tasks of one round.")


def _png(picture: Any) -> bytes:
    file = io.BytesIO()
    picture.convert("RGB").save(file, "PNG")
    return file.getvalue()
