import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_mm.transforms.audio import group_spans

PAUSE = 0.5


def ends_allowed(speech, seconds):
    """The middles of the pauses, and both ends of the recording."""
    pauses = [(before, after) for (_, before), (after, _) in itertools.pairwise(speech) if after - before >= PAUSE]
    return [0.0, *((before + after) / 2 for before, after in pauses), seconds]


@pytest.mark.parametrize(
    ("speech", "seconds", "longest", "wanted"),
    [
        ([], 8.0, 20.0, [(0.0, 8.0)]),
        ([(1, 7)], 8.0, 20.0, [(0.0, 8.0)]),
        # everything fits into one span
        ([(0, 4), (5, 9)], 10.0, 20.0, [(0.0, 10.0)]),
        # two stretches that do not fit together: the cut is in the middle of the pause
        ([(0, 4), (5, 9)], 10.0, 6.0, [(0.0, 4.5), (4.5, 10.0)]),
        # two that fit, one that does not
        ([(0, 4), (5, 9), (10, 14)], 15.0, 10.0, [(0.0, 9.5), (9.5, 15.0)]),
        # a gap below half a second is no pause
        ([(0, 4), (4.4, 9)], 9.0, 20.0, [(0.0, 9.0)]),
        # nobody speaks for longer than a span: equal parts
        ([], 50.0, 20.0, [(0.0, 50 / 3), (50 / 3, 100 / 3), (100 / 3, 50.0)]),
        ([], 40.0, 20.0, [(0.0, 20.0), (20.0, 40.0)]),
        # an exact fit stays whole
        ([(0, 4), (6, 10)], 10.0, 10.0, [(0.0, 10.0)]),
        # somebody speaks for longer than a span: equal parts, too
        ([(0, 50)], 50.0, 20.0, [(0.0, 50 / 3), (50 / 3, 100 / 3), (100 / 3, 50.0)]),
    ],
)
def test_by_hand(speech, seconds, longest, wanted):
    spans = group_spans(speech, seconds, longest)
    assert [pytest.approx(span) for span in wanted] == spans


@pytest.mark.parametrize(
    ("speech", "seconds", "wanted"),
    [
        # a pause is there: spans touch
        ([(0, 9), (10, 21)], 21.0, [(0.0, 9.5), (9.5, 21.0)]),
        # nobody pauses for 36 s: two parts that share two seconds
        ([(0, 36)], 36.0, [(0.0, 19.0), (17.0, 36.0)]),
        # two parts of 20 s reach 38 s at most
        ([(0, 38)], 38.0, [(0.0, 20.0), (18.0, 38.0)]),
        ([(0, 39)], 39.0, [(0.0, 43 / 3), (37 / 3, 80 / 3), (74 / 3, 39.0)]),
        # the stretch before the pause is cut, the one after it is not
        ([(0, 29.5), (30.5, 40)], 40.0, [(0.0, 16.0), (14.0, 30.0), (30.0, 40.0)]),
        # nobody speaks: nothing can be lost at a cut
        ([], 40.0, [(0.0, 20.0), (20.0, 40.0)]),
    ],
)
def test_overlap_by_hand(speech, seconds, wanted):
    assert [pytest.approx(span) for span in wanted] == group_spans(speech, seconds, 20.0, overlap=2.0)


@st.composite
def recordings(draw):
    """Stretches of speech in a recording, in order."""
    marks = sorted(draw(st.lists(st.floats(0, 200, allow_subnormal=False), max_size=24, unique=True)))
    speech = list(zip(marks[::2], marks[1::2], strict=False))
    return speech, (speech[-1][1] if speech else 0) + draw(st.floats(0.01, 50))


@settings(max_examples=200, deadline=None)
@given(recordings(), st.floats(1.01, 30))
def test_spans_cover_the_recording_and_end_in_pauses(recording, longest):
    speech, seconds = recording
    spans = group_spans(speech, seconds, longest)
    assert spans[0][0] == 0
    assert spans[-1][1] == seconds
    assert all(one[1] == two[0] for one, two in itertools.pairwise(spans))
    assert all(0 < end - start <= longest + 1e-6 for start, end in spans)
    middles = ends_allowed(speech, seconds)
    for _, end in spans:
        if end not in middles:  # within a stretch that has no pause and is longer than a span
            start, stop = max(m for m in middles if m < end), min(m for m in middles if m > end)
            assert stop - start > longest


@settings(max_examples=200, deadline=None)
@given(recordings(), st.floats(1.01, 30))
def test_no_span_ends_before_it_must(recording, longest):
    """Two neighbours that both end in pauses never fit into one span."""
    speech, seconds = recording
    middles = ends_allowed(speech, seconds)
    for (start, middle), (_, end) in itertools.pairwise(group_spans(speech, seconds, longest)):
        if start in middles and middle in middles and end in middles:
            assert end - start > longest


@settings(max_examples=300, deadline=None)
@given(recordings(), st.floats(1.01, 30), st.floats(0, 0.499))
def test_spans_overlap_where_a_cut_is_forced_and_nowhere_else(recording, longest, share):
    speech, seconds = recording
    overlap = share * longest
    spans = group_spans(speech, seconds, longest, overlap=overlap)
    assert (spans[0][0], spans[-1][1]) == (0, seconds)
    assert all(0 < end - start <= longest + 1e-6 for start, end in spans)
    middles = ends_allowed(speech, seconds)
    for (start, end), (following, last) in itertools.pairwise(spans):
        assert start < following <= end < last
        if end in middles:
            assert following == end
            continue
        before, after = max(m for m in middles if m < end), min(m for m in middles if m > end)
        spoken = any(one < after and other > before for one, other in speech)
        assert after - before > longest
        assert end - following == pytest.approx(overlap if spoken else 0, abs=1e-6)
