"""The suites: what their rows are called, how they are scored, what guessing would score.

    SUITES["mmbench"].rule            # "letter"

A suite's rows come in one of two layouts. VLMEvalKit's is a table (.tsv) with a column for each
option, A, B, ..., and the picture in base64. The other one is that of the data sets which lmms-eval
reads (.parquet, .jsonl, .json), whose columns are named here. MMMU and MathVista in their
publishers' layout are read by the loaders of `embervlm.reasoner`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """One suite.

    `rule` names a rule of `scoring.RULES`, which also says what guessing scores. `options` are the
    columns of the options in the second layout, or one column that holds a list; `answer` the
    column of the answer or answers, `kind` the column by which scores are also shown (the second
    layout, then VLMEvalKit's). `says` is what the answer to options is in the second layout: a
    "letter", the option's "place" from 0, or its "words". `source` is where the suite is from.
    """

    title: str
    rule: str
    source: str
    answer: str = "answer"
    options: tuple[str, ...] = ()
    kind: tuple[str, ...] = ("category",)
    says: str = "letter"


_SEED = ("choice_a", "choice_b", "choice_c", "choice_d")
_MMBENCH = ("A", "B", "C", "D")

SUITES = {
    "mme": Suite("MME", "mme", "Fu et al. 2023"),
    "seedbench": Suite(
        "SEED-Bench", "letter", "Li et al. 2023", options=_SEED, kind=("data_type", "category")
    ),
    "mmbench": Suite("MMBench", "letter", "Liu et al. 2023", options=_MMBENCH),
    "textvqa": Suite("TextVQA", "vqa", "Singh et al. 2019", answer="answers", kind=()),
    "ai2d": Suite("AI2D", "letter", "Kembhavi et al. 2016", options=("options",), says="place"),
    "scienceqa": Suite(
        "ScienceQA", "letter", "Lu et al. 2022", options=("choices",), kind=("subject", "category"),
        says="place",
    ),
    "mmstar": Suite("MMStar", "letter", "Chen et al. 2024"),
    "mmmu": Suite("MMMU", "letter or words", "Yue et al. 2024", options=("options",)),
    "mathvista": Suite(
        "MathVista", "letter or words", "Lu et al. 2024", options=("choices",), kind=("task",),
        says="words",
    ),
    "chartqa": Suite("ChartQA", "relaxed", "Masry et al. 2022", kind=("type", "split")),
    "docvqa": Suite("DocVQA", "anls", "Mathew et al. 2021", answer="answers", kind=()),
    "ocrbench": Suite(
        "OCRBench", "contains", "Liu et al. 2024", kind=("question_type", "category")
    ),
    "hallusionbench": Suite(
        "HallusionBench", "hallusion", "Guan et al. 2024", answer="gt_answer"
    ),
    "mmvet": Suite("MM-Vet", "judge", "Yu et al. 2023", kind=("capability", "category")),
}  # fmt: skip
