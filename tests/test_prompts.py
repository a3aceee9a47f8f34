"""Every text format is read back by the parser beside it."""

import random
from xml.etree import ElementTree

import pytest

from embervlm.fleet import NO_ROBOT, Fleet
from embervlm.prompts import (
    END,
    SECTIONS,
    SPECIALS,
    TASK,
    Reasoning,
    Thinking,
    bucket_mark,
    encode_marked,
    one_line,
    parse_reasoning,
    parse_thinking,
    read_task,
    reasoning_prefix,
    token_spans,
    write_reasoning,
    write_thinking,
)
from embervlm.quantities import Mention, find_quantities
from embervlm.tokenizer import Tokenizer

REASONING = Reasoning(
    ("Drone", "Robot with Legs"), "Look at 3 roofs", "High; windy", "Send both: 8 kg is no load."
)
WHOLE = write_reasoning(REASONING)


def test_reasoning_is_read_back_as_it_was_written(tokenizer: Tokenizer) -> None:
    assert parse_reasoning(WHOLE) == REASONING
    assert parse_reasoning(tokenizer.decode(encode_marked(WHOLE, tokenizer))) == REASONING
    for robots in [
        *((name,) for name in Fleet.default().names),
        Fleet.default().names,
        (NO_ROBOT,),
    ]:
        record = Reasoning(tuple(robots), "a", "b", "c")
        assert parse_reasoning(write_reasoning(record)) == record


def test_what_the_decoder_is_given_is_how_the_written_form_begins(tokenizer: Tokenizer) -> None:
    prefix = reasoning_prefix(REASONING.robots, tokenizer)
    assert encode_marked(WHOLE, tokenizer)[: len(prefix)] == prefix
    assert prefix[-1] == tokenizer.specials[TASK]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Send the drone.",
        WHOLE + " ",
        WHOLE + WHOLE,
        " " + WHOLE,
        WHOLE.removesuffix(END),
        WHOLE.replace("<|environment|>", ""),
        WHOLE.replace("Look at 3 roofs", " "),
        WHOLE.replace("Look", "<|kg<=5|> look"),
        WHOLE.replace("Look", "<|environment|>look"),
        WHOLE.replace("<|task|>", "<|x|>").replace("<|decision|>", "<|task|>"),
    ],
)
def test_refuses_reasoning_that_is_not_whole(text: str) -> None:
    assert parse_reasoning(text) is None


def test_any_damage_is_refused_or_still_a_whole_record() -> None:
    chance = random.Random(0)
    for _ in range(3000):
        at = chance.randrange(len(WHOLE))
        text = WHOLE[:at] + chance.choice(["", "<|", "<|end|>", "x", *SECTIONS]) + WHOLE[at + 1 :]
        record = parse_reasoning(text)
        if record is not None:
            for line in (*record.robots, record.task, record.environment, record.decision):
                assert line and "<|" not in line


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("5 kg", "<|kg<=5|>"),
        ("5.1 kg", "<|kg<=15|>"),
        ("16 kg", "<|kg<=20|>"),
        ("500 kg", "<|kg<=500|>"),
        ("501 kg", "<|kg>500|>"),
        ("10 cm", "<|m<=0.1|>"),
        ("0.4 m", "<|m<=0.4999|>"),
        ("0.5 m", "<|m<=2|>"),
        ("1.9 m", "<|m<=2|>"),
        ("2 m", "<|m<=20|>"),
        ("1000 m", "<|m<=1000|>"),
        ("1001 m", "<|m>1000|>"),
        ("50 km/h", "<|km/h<=50|>"),
        ("51 km/h", "<|km/h>50|>"),
        ("40 min", "<|h<=0.6667|>"),
        ("2 hours", "<|h<=2|>"),
        ("9 hours", "<|h>8|>"),
    ],
)
def test_a_number_is_marked_by_the_threshold_that_it_stays_below(text: str, mark: str) -> None:
    [mention] = find_quantities(text)
    assert bucket_mark(mention) == mark


def test_marks_are_in_order_of_size_and_among_the_specials() -> None:
    assert len(set(SPECIALS)) == len(SPECIALS)
    for kind in ("mass_kg", "length_m", "speed_kmh", "hours"):
        marks = [bucket_mark(Mention(kind, 10**power, 0, 1)) for power in range(-3, 6)]
        assert set(marks) <= set(SPECIALS)
        assert marks == sorted(marks, key=marks.index)


def test_reads_a_request_with_its_marks_behind_its_numbers(tokenizer: Tokenizer) -> None:
    reading = read_task("Carry 16 kg\n up  400 m.", tokenizer, 128)
    assert tokenizer.decode(reading.tokens) == (
        "<|task|> carry 16 kg<|kg<=20|> up 400 m<|m<=1000|>.<|end|>"
    )
    assert [mention.value for mention in reading.mentions] == [16, 400]


@pytest.mark.parametrize("space", ["\u00a0", "\u2009", "\u202f"])
def test_a_narrow_space_between_thousands_does_not_part_them(
    tokenizer: Tokenizer, space: str
) -> None:
    reading = read_task(f"Tow{space}1{space}500{space}kg 2\n000 m", tokenizer, 128)
    assert [mention.value for mention in reading.mentions] == [1500, 2000]
    assert one_line(f"1{space}500{space}kg") == "1,500 kg"


def test_a_hyphen_that_does_not_break_is_a_hyphen() -> None:
    assert one_line("a 600\u2011kg crate on level \u22123") == "a 600-kg crate on level -3"


@pytest.mark.parametrize("task", [None, "", "  \n"])
def test_an_absent_request_is_its_two_ends(tokenizer: Tokenizer, task: str | None) -> None:
    assert tokenizer.decode(read_task(task, tokenizer, 128).tokens) == "<|task|><|end|>"


def test_marks_alone_stand_for_numbers_that_are_not_read(tokenizer: Tokenizer) -> None:
    reading = read_task("90 kg? Carry half a tonne up  400 m.", tokenizer, 128, numbers=False)
    said = tokenizer.decode(reading.tokens)
    assert said == "<|task|><|kg<=500|> ? carry<|kg<=500|> up<|m<=1000|>.<|end|>"
    assert [tokenizer.decode([reading.tokens[mark]]) for mark in reading.marks] == [
        bucket_mark(mention) for mention in reading.mentions
    ]


def test_whatever_the_request_its_marks_stand_where_the_reading_says(tokenizer: Tokenizer) -> None:
    pieces = [
        "8 kg",
        "force 9 m",
        "F9 km",
        "gusting 85 km/h",
        "0.4 m wide",
        "70 wide",
        "½ t",
        " ",
        "and a half",
        "two hours",
        "<|task|>",
        "🚁",
        "İ",
        "\n",
        "the pump",
        ",",
        "1,200 kg",
        "'",
        "\ud800",
    ]
    chance = random.Random(0)
    for _ in range(3000):
        task = " ".join(chance.choices(pieces, k=chance.randint(1, 40)))
        longest = chance.choice([16, 64, 128])
        reading = read_task(task, tokenizer, longest)
        assert len(reading.tokens) <= longest
        assert reading.tokens[0] == tokenizer.specials[TASK]
        assert reading.tokens[-1] == tokenizer.specials[END]
        assert len(reading.marks) == len(reading.mentions)
        assert list(reading.marks) == sorted(set(reading.marks))
        specials = [i for i, n in enumerate(reading.tokens) if n in tokenizer.specials.values()]
        assert specials[1:-1] == list(reading.marks)
        for mark, mention in zip(reading.marks, reading.mentions, strict=True):
            assert reading.tokens[mark] == tokenizer.specials[bucket_mark(mention)]


FILLING = "we have been working on the farm since the morning and all are tired. " * 9


def test_a_long_request_keeps_each_number_with_the_words_before_it(tokenizer: Tokenizer) -> None:
    task = f"{FILLING}so it is 900 kg. {FILLING}it is 40 m. {FILLING}carry it to the gate."
    reading = read_task(task, tokenizer, 128)
    assert len(reading.tokens) == 128
    assert [mention.value for mention in reading.mentions] == [900, 40]
    assert not reading.unread
    said = tokenizer.decode(reading.tokens)
    assert " is 900 kg<|kg>500|>" in said
    assert " is 40 m<|m<=100|>" in said
    assert said.startswith("<|task|> we have been") and said.endswith("the gate.<|end|>")


def test_a_request_is_shortened_only_where_it_is_long_and_then_between_its_ends(
    tokenizer: Tokenizer,
) -> None:
    whole = read_task(FILLING, tokenizer, 10_000).tokens
    assert read_task(FILLING, tokenizer, len(whole)).tokens == whole
    assert read_task(FILLING, tokenizer, 128).tokens == whole[:85] + whole[-43:]


def test_numbers_without_room_are_told_as_unread(tokenizer: Tokenizer) -> None:
    task = " ".join(f"{FILLING} it is {number} kg." for number in range(1, 31))
    reading = read_task(task, tokenizer, 128)
    assert len(reading.tokens) <= 128
    assert reading.mentions and reading.unread
    told = sorted([*reading.mentions, *reading.unread], key=lambda mention: mention.start)
    assert told == find_quantities(one_line(task))


def test_spans_say_which_characters_each_token_stands_for(tokenizer: Tokenizer) -> None:
    for task in ("İİİ bring the 8 kg pump", "İstanbul look", "look at ẞ", f"{FILLING} 8 kg İ " * 4):
        words = one_line(task)
        spans, reading = token_spans(task, tokenizer, 128), read_task(task, tokenizer, 128)
        assert len(spans) == len(reading.tokens)
        assert all(0 <= begin <= end <= len(words) for begin, end in spans)
        marked = [words[slice(*spans[mark])] for mark in reading.marks]
        assert marked == [words[mention.start : mention.end] for mention in reading.mentions]
    at = token_spans("İİİ bring", tokenizer, 128)
    assert "".join("İİİ bring"[begin:end] for begin, end in at) == "İİİ bring"


THINKING = Thinking(
    "Look; load 8 kg", "Rough. A <wet> roof", "Drone: can look; not Humanoid: a & b", "Send it.",
    0.9312, ("Drone", "Robot with Legs"),
)  # fmt: skip
TAGGED = write_thinking(THINKING)
TAGS = (
    "thinking", "environment_analysis", "robot_evaluation", "selection_reasoning",
    "confidence_check", "robot_selection",
)  # fmt: skip


def test_any_account_in_tags_is_read_back_as_it_was_written() -> None:
    chance = random.Random(2)
    bits = ["<", ">", "&", "&lt;", "&#10;", "\n", "\t", " ", "</thinking>", "Task: ", "{task}", "ü"]
    bits += ["8 kg", "; ", "<|end|>", '"', "\\n", "\r"]

    def line() -> str:
        return "".join(chance.choices(bits, k=chance.randrange(6)))

    names = [*Fleet.default().outcomes, "R2<D2>", "Tom & co"]
    for _ in range(2000):
        robots = tuple(chance.sample(names, chance.randrange(1, 4)))
        sure = chance.choice([chance.random(), round(chance.random(), 4), 0.0, 1.0, 3e-7])
        record = Thinking(line(), line(), line(), line(), sure, robots)
        assert parse_thinking(write_thinking(record)) == record


def test_other_readers_of_xml_see_the_same() -> None:
    root = ElementTree.fromstring(f"<answer>{TAGGED}</answer>")
    assert [element.tag for element in root.iter()] == ["answer", *TAGS]
    assert root.findtext("thinking/robot_evaluation") == THINKING.evaluation
    assert root.findtext("thinking/environment_analysis") == "\n".join(THINKING.lines[:2])
    assert root.findtext("robot_selection") == "; ".join(THINKING.robots)


def test_white_space_around_tags_does_not_matter() -> None:
    assert parse_thinking(TAGGED.replace(">\n<", "><")) == THINKING
    assert parse_thinking("\n" + TAGGED.replace(">\n<", ">\n\n  <") + "\n") == THINKING


@pytest.mark.parametrize("tag", TAGS)
def test_tags_that_are_missing_doubled_or_nested_are_no_answer(tag: str) -> None:
    start, end = f"<{tag}>", f"</{tag}>"
    for text in (
        TAGGED.replace(start, ""),
        TAGGED.replace(end, ""),
        TAGGED.replace(start, start * 2),
        TAGGED.replace(end, end * 2),
        TAGGED.replace(start, end),
        TAGGED.replace(start, f"{start}{start}x{end}"),
        TAGGED.replace(start, f"<{tag.upper()}>"),
        TAGGED + start + end,
    ):
        assert parse_thinking(text) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (TAGGED, ""),
        (TAGGED, TAGGED * 2),
        (TAGGED, "Send the Drone. " + TAGGED),
        ("0.9312", "certain"),
        ("0.9312", "1.5"),
        ("0.9312", "nan"),
        ("0.9312", "-0.5"),
        ("0.9312", "٠.٩"),
        ("0.9312", ""),
        ("&lt;wet", "<wet"),
        ("&amp; b", "& b"),
        ("Task: ", ""),
        ("Environment: ", "Place: "),
        ("Drone; Robot", "; Robot"),
        ("Drone; Robot with Legs<", "<"),
    ],
)
def test_an_account_that_is_not_whole_is_no_answer(old: str, new: str) -> None:
    assert parse_thinking(TAGGED.replace(old, new)) is None
    swapped = TAGGED.replace("robot_evaluation", "x").replace("selection_reasoning", "y")
    swapped = swapped.replace("x>", "selection_reasoning>").replace("y>", "robot_evaluation>")
    assert parse_thinking(swapped) is None


def test_robots_that_nobody_knows_are_kept_as_text() -> None:
    found = parse_thinking(TAGGED.replace("Robot with Legs<", "Flying Pig<"))
    assert found is not None
    assert found.robots == ("Drone", "Flying Pig")


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ("5\u00a0300 kg", "5,300 kg"),
        ("1\u202f200\u202f000 kg", "1,200,000 kg"),
        ("1.5\u00a0300 kg", "1.5 300 kg"),
        ("0\u00a0300 kg", "0 300 kg"),
        ("hall 2024\u00a0500 kg", "hall 2024 500 kg"),
    ],
)
def test_only_thousands_are_joined_at_a_space_that_does_not_break(told: str, line: str) -> None:
    assert one_line(told) == line
