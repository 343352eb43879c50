import pytest

from llama_index_mm.evaluation import (
    character_error_rate,
    characters_of,
    edit_distance,
    equal_error_rate,
    word_error_rate,
    words_of,
)


@pytest.mark.parametrize(
    ("wanted", "got", "distance"),
    [
        ("", "", 0),
        ("abc", "", 3),
        ("", "ab", 2),
        ("kitten", "sitting", 3),  # k/s, e/i, +g
        ("saturday", "sunday", 3),  # -a, -t, r/n
        ("ab", "ba", 2),  # no swaps
        (["a", "b"], ["a", "b"], 0),
    ],
)
def test_edit_distance(wanted, got, distance):
    assert edit_distance(wanted, got) == edit_distance(got, wanted) == distance


def test_words_without_case_and_punctuation():
    assert words_of("Well-known: it’s HIS, the Joneses' 20 ...") == ["well", "known", "it's", "his", "the", "joneses", "20"]
    assert words_of(" '…' ") == []
    assert words_of("été") == words_of("e\u0301te\u0301") == ["été"]


def test_characters_without_punctuation_and_width():
    assert characters_of("你好，世界！ ＡＢ１。") == ["你", "好", "世", "界", "a", "b", "1"]


def test_word_error_rate_weighs_by_length():
    # One word of four is another, one is missing of two, one too many: 3 errors in 6 words.
    pairs = [("the cat sat down", "The cat sits down."), ("good day", "day"), ("", "you")]
    assert word_error_rate(pairs) == 3 / 6
    assert word_error_rate([("yes", "no it is not")]) == 4  # one substituted, three inserted


def test_character_error_rate():
    # 世 for 是, and 天 missing: 2 errors in 4 + 3 characters.
    assert character_error_rate([("你是好人", "你世好人。"), ("今天好", "今好")]) == 2 / 7


@pytest.mark.parametrize("rate", [word_error_rate, character_error_rate])
@pytest.mark.parametrize("pairs", [[], [("", "something")], [(" … ", "")]])
def test_nothing_said_has_no_rate(rate, pairs):
    with pytest.raises(ValueError, match="something is said"):
        rate(pairs)


def test_equal_error_rate():
    assert equal_error_rate([0.9, 0.8], [0.1, 0.2, 0.3]) == 0
    assert equal_error_rate([0.1, 0.2], [0.8, 0.9]) == 1
    # At 0.6 one of four is refused (0.4), and one of four is taken (0.7).
    assert equal_error_rate([0.9, 0.8, 0.6, 0.4], [0.7, 0.3, 0.2, 0.1]) == 0.25
    # All alike: whatever the threshold, one side is all wrong and the other all right.
    assert equal_error_rate([0.5, 0.5], [0.5]) == 0.5
    # They cross between 0.75 (a third refused, half taken) and 0.8 (a third and none); 0.75 is closer: (1/3 + 1/2) / 2.
    assert equal_error_rate([0.9, 0.8, 0.7], [0.75, 0.1]) == pytest.approx(5 / 12)


@pytest.mark.parametrize(("same", "different"), [([], [0.1]), ([0.1], [])])
def test_equal_error_rate_needs_both_kinds(same, different):
    with pytest.raises(ValueError, match="of one speaker and of two"):
        equal_error_rate(same, different)
