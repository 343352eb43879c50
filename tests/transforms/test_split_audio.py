"""Recordings into spans, with a transcriber whose words and times are given."""

import difflib
import itertools
import re
import wave
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_mm.media import SAMPLE_RATE, Waveform, load_audio, wav_bytes
from llama_index_mm.models.whisper import speech_spans
from llama_index_mm.readers.media import document_of
from llama_index_mm.transforms import audio as module
from llama_index_mm.transforms.audio import SplitAudio
from llama_index_mm.transforms.transcript import Segment, Transcript
from llama_index_mm.transforms.whisper import FasterWhisperTranscriber


class Told:
    """Gives the segments that lie within what it hears, counted from its beginning."""

    fingerprint = "told"

    def __init__(self, *transcripts):
        self.transcripts = list(transcripts)
        self.heard = []

    def transcribe(self, sound, *, language=None):
        self.heard.append((round(sound.seconds, 3), language))
        return self.transcripts.pop(0)


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "talk_of-bees.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.zeros(40 * SAMPLE_RATE, dtype="<i2").tobytes())
    return document_of(path)


def split(monkeypatch, recording, speech, transcriber, **options):
    monkeypatch.setattr(module, "speech_spans", lambda sound: speech)
    return SplitAudio(transcriber, **options)([recording])


def test_units_end_in_pauses_and_spans_between_sentences(monkeypatch, recording):
    first = Transcript((Segment(0, 9, "one"), Segment(9, 15, "two"), Segment(15, 24, "three")), "en", 0.9)
    second = Transcript((Segment(1, 8, "four"),), "de", 0.8)
    told = Told(first, second)
    nodes = split(monkeypatch, recording, [(0, 24), (26, 39)], told, span_seconds=16)
    assert told.heard == [(25.0, None), (15.0, None)]
    assert [(node.start, node.end, node.language, node.text) for node in nodes] == [
        (0.0, 15.0, "en", "one two"),
        (15.0, 25.0, "en", "three"),
        (25.0, 40.0, "de", "four"),
    ]
    assert [node.id_ for node in nodes] == [f"{recording.id_}:{at}" for at in range(3)]
    assert {node.ref_doc_id for node in nodes} == {recording.id_}
    assert all(node.speech and node.seconds == 40.0 for node in nodes)


def test_where_no_words_are_heard_the_text_is_the_title(monkeypatch, recording):
    nodes = split(monkeypatch, recording, [], Told(*[Transcript((), "", 0.0)] * 2))
    assert [(node.start, node.end, node.speech, node.language, node.text) for node in nodes] == [
        (0.0, 20.0, False, None, "talk of bees"),
        (20.0, 40.0, False, None, "talk of bees"),
    ]


def test_without_a_transcriber_there_are_spans_all_the_same(monkeypatch, recording):
    nodes = split(monkeypatch, recording, [(0, 10), (20, 30)], None)
    assert [(node.start, node.end) for node in nodes] == [(0.0, 15.0), (15.0, 28.5), (26.5, 40.0)]


def test_without_words_spans_end_in_pauses_all_the_same(monkeypatch, recording):
    nodes = split(monkeypatch, recording, [(0, 9), (10, 19), (20, 28), (35, 40)], None, span_seconds=12)
    assert [(node.start, node.end) for node in nodes] == [(0.0, 9.5), (9.5, 19.5), (19.5, 31.5), (31.5, 40.0)]


def test_units_that_overlap_are_each_transcribed_with_their_overlap(monkeypatch, recording):
    """Nobody pauses for 40 s: two units of 21 s share two, and the words there are in a span of each."""
    first = Transcript((Segment(0, 9, "one"), Segment(9, 18.5, "two"), Segment(18.8, 21, "thr-")), "en", 0.9)
    second = Transcript((Segment(0, 2.5, "three"), Segment(2.5, 11, "four"), Segment(11, 21, "five")), "en", 0.9)
    told = Told(first, second)
    nodes = split(monkeypatch, recording, [(0, 40)], told, span_seconds=14)
    assert told.heard == [(21.0, None), (21.0, None)]
    assert [(node.start, node.end, node.text) for node in nodes] == [
        (0.0, 9.0, "one"),
        (9.0, 21.0, "two thr-"),
        (19.0, 30.0, "three four"),
        (30.0, 40.0, "five"),
    ]


def test_a_long_sentence_is_in_both_of_its_spans(monkeypatch, recording):
    told = Told(Transcript((Segment(0, 25, "long"),), "en", 0.9), Transcript((), "", 0.0))
    nodes = split(monkeypatch, recording, [(0, 24.5), (25.5, 40)], told)
    assert [(node.start, node.end, node.text) for node in nodes] == [
        (0.0, 13.5, "long"),
        (11.5, 25.0, "long"),
        (25.0, 40.0, "talk of bees"),
    ]


@pytest.mark.parametrize("options", [{"span_seconds": 4}, {"overlap_seconds": 10}, {"span_seconds": 8, "overlap_seconds": 4.0}])
def test_overlap_is_less_than_half_a_span(options):
    with pytest.raises(ValueError, match="Expected overlap_seconds below half of span_seconds"):
        SplitAudio(**options)


@pytest.mark.parametrize(
    "options", [{"overlap_seconds": -1}, {"overlap_seconds": 15}, {"span_seconds": 1}, {"span_seconds": 31}]
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match="should be"):
        SplitAudio(**options)


@st.composite
def speech_and_sentences(draw):
    """Seconds of a recording, the stretches of speech in it, and shares of a unit at which sentences begin and end."""
    marks = sorted(draw(st.lists(st.floats(0, 120), max_size=12, unique=True)))
    speech = list(zip(marks[::2], marks[1::2], strict=False))
    shares = sorted(draw(st.lists(st.floats(0, 1), max_size=10, unique=True)))
    return (speech[-1][1] if speech else 0) + draw(st.floats(0.5, 40)), speech, shares


@settings(max_examples=150, deadline=None)
@given(speech_and_sentences(), st.floats(1.01, 30), st.floats(0, 0.499))
def test_nothing_is_lost(recording, longest, share):
    seconds, speech, shares = recording
    sound = Waveform(np.zeros(max(1, round(seconds * SAMPLE_RATE)), np.float32))
    heard, words = [], itertools.count()

    class Sentences:
        fingerprint = "sentences"

        def transcribe(self, part, *, language=None):
            heard.append(part.seconds)
            said = [Segment(one * part.seconds, other * part.seconds, f"w{next(words)}") for one, other in pairs(shares)]
            return Transcript(tuple(said), "en", 1.0)

    transform = SplitAudio(Sentences(), span_seconds=longest, overlap_seconds=share * longest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "speech_spans", lambda _: speech)
        spans = transform._heard(sound)
    assert (spans[0][0][0], spans[-1][0][1]) == (0, sound.seconds)
    assert all(0 < end - start <= longest + 1e-6 for (start, end), _ in spans)
    for ((start, end), _), ((following, last), _) in itertools.pairwise(spans):
        assert start < following <= end + 1e-9  # in order, without a gap
        assert end < last
        assert end - following == pytest.approx(0, abs=1e-6) or end - following == pytest.approx(share * longest, abs=1e-6)
    assert max(heard) <= 30
    told = {segment.text for _, transcript in spans if transcript for segment in transcript.segments}
    assert told == {f"w{at}" for at in range(next(words))}


def pairs(shares):
    return list(zip(shares[::2], shares[1::2], strict=False))


def test_the_language_told_reaches_the_transcriber(monkeypatch, recording):
    told = Told(*[Transcript((Segment(0, 1, "ja"),), "de", 1.0)] * 2)
    split(monkeypatch, recording, [], told, language="de")
    assert {language for _, language in told.heard} == {"de"}


def test_other_nodes_pass_through(recording):
    other = recording.model_copy(deep=True)
    assert SplitAudio(None)([]) == []
    from llama_index.core.schema import TextNode

    text = TextNode(text="words")
    assert SplitAudio(None)([text]) == [text]
    assert other == recording


def in_order(wanted, heard):
    """How many of the wanted words are heard, in their order."""
    matcher = difflib.SequenceMatcher(None, wanted, heard, autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks())


@pytest.mark.weights
def test_a_voice_that_never_pauses(make):
    """A podcast whose pauses were cut out: the sentence at the forced cut is whole in one of the spans."""
    sound = load_audio(files("llama_index_mm.demo") / "data" / "audio" / "podcast-bread-baking.ogg").cut(0, 43)
    stretches = speech_spans(sound)
    breathless = Waveform(np.concatenate([sound.cut(start + 0.3, end - 0.3).samples for start, end in stretches]))
    assert len(speech_spans(breathless)) == 1
    assert breathless.seconds > 30
    transcriber = FasterWhisperTranscriber()
    nodes = SplitAudio(transcriber)([document_of(make.bytes("talk.wav", wav_bytes(breathless)))])
    shared = [round(one.end - other.start, 3) for one, other in itertools.pairwise(nodes)]
    assert sorted(set(shared) - {0.0}) == [2.0]
    assert all(node.speech and node.language == "en" and node.end - node.start <= 20 for node in nodes)
    assert (nodes[0].start, nodes[-1].end) == (0.0, round(breathless.seconds, 3))
    wanted = re.findall("[a-z]+", transcriber.transcribe(sound, language="en").text.lower())
    heard = re.findall("[a-z]+", " ".join(node.text for node in nodes).lower())
    assert in_order(wanted, heard) > 0.85 * len(wanted)
