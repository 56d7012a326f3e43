"""The text front-end: examples a person would type, and properties of splitting."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm.core.errors import ConfigError
from genmm.systems.sled.text import TextRules, digit_words, expand, model_text, split_text, spoken_text

SPOKEN = TextRules(lower_case=True, leading_space=True, letters="',.?!-")


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("Seven four one", "seven four one."),
        ("741", "seven hundred forty one."),
        ("007", "zero zero seven."),
        ("call 5551234", "call five five five one two three four."),
        ("555-123-4567", "five five five, one two three, four five six seven."),
        ("12,345 people", "twelve thousand three hundred forty five people."),
        ("in 1984 and 2024", "in nineteen eighty four and twenty twenty four."),
        ("room 2000", "room two thousand."),
        ("pi is 3.14", "pi is three point one four."),
        ("-5 outside", "minus five outside."),
        ("5-10 people", "five to ten people."),
        ("$3.50", "three dollars and fifty cents."),
        ("$1", "one dollar."),
        ("\u20ac1.05", "one euro and five cents."),
        ("\u00a32 million", "two million pounds."),
        ("10:30 a.m. sharp", "ten thirty A M sharp."),
        ("at 10:05pm", "at ten oh five P M."),
        ("at 9:00", "at nine o'clock."),
        ("3rd of May", "third of may."),
        ("20% & more", "twenty percent and more."),
        ("3 km", "three kilometers."),
        ("1 kg", "one kilogram."),
        ("Dr. Smith, Mr. Jones", "doctor smith, mister jones."),
        ("No. 5", "number five."),
        ("No.", "no."),
        ("gate b", "gate B."),
        ("A B C", "A B C."),
        ("a cat", "a cat."),
        ("I am", "i am."),
        ("USB and HTML", "U S B and H T M L."),
        ("the U.S. army", "the U S army."),
        ("HELLO WORLD", "hello world."),
        ("room B12", "room B twelve."),
        ("really?!", "really?!"),
        ("wait...", "wait..."),
        ("It\u2019s fine", "it's fine."),
        ("two\nLines", "two. lines."),
        ("one\nline", "one line."),
        ("a  b , c", "a B, C."),
        ("\u2026?!", ""),
        ("*** ", ""),
    ],
)
def test_what_is_typed_becomes_what_is_read(typed, read):
    assert spoken_text(typed, SPOKEN) == read


def test_official_models_keep_case_and_marks():
    assert spoken_text('He said: "NASA!"', TextRules()) == 'He said: "NASA!"'
    assert spoken_text("Hello there", TextRules()) == "Hello there."
    assert spoken_text("Hello there,", TextRules()) == "Hello there."
    assert spoken_text("741", TextRules(expand=False, final_stop=False)) == "741"


def test_the_prompt_leads_and_the_space_comes_first():
    assert model_text("one two.", SPOKEN, "seven four.") == " seven four. one two."
    assert model_text("one two.", TextRules()) == "one two."


def test_digit_words_read_one_by_one():
    assert digit_words("407") == "four zero seven"


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=60))
def test_any_text_becomes_one_line_of_words_with_a_closing_mark(text):
    read = spoken_text(text, SPOKEN)
    assert not any(character in "0123456789" for character in read)
    assert "  " not in read and "\n" not in read and read == read.strip()
    assert not read or read.rstrip("'")[-1] in ".?!"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["word", "long" * 30, "end.", "yes,", "why?"]), max_size=40), st.integers(40, 120))
def test_parts_fit_and_join_to_the_text(words, most):
    text = " ".join(words)
    parts = split_text(text, most)
    assert all(1 <= len(part) <= most for part in parts)
    assert "".join(parts).replace(" ", "") == text.replace(" ", "")
    if all(len(word) <= most for word in words):
        assert " ".join(parts) == text


def test_sentences_are_kept_whole_where_they_fit():
    text = "One two three. Four five six? Seven eight nine! " * 2
    assert split_text(text.strip(), 40) == [
        "One two three. Four five six?",
        "Seven eight nine! One two three.",
        "Four five six? Seven eight nine!",
    ]
    assert split_text("first part of it, second part of it and more", 30)[0] == "first part of it,"


def test_unknown_rules_are_named():
    with pytest.raises(ConfigError, match="uper_case"):
        TextRules.from_dict({"uper_case": True})
    assert TextRules.from_dict(SPOKEN.to_dict()) == SPOKEN


def test_numbers_too_long_for_words_are_read_digit_by_digit():
    assert expand("9" * 400).split() == ["nine"] * 400
