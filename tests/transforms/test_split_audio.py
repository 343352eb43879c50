"""Recordings into spans, with a transcriber whose words and times are given."""

import wave

import numpy as np
import pytest

from llama_index_mm.media import SAMPLE_RATE
from llama_index_mm.readers.media import document_of
from llama_index_mm.transforms import audio as module
from llama_index_mm.transforms.audio import SplitAudio
from llama_index_mm.transforms.transcript import Segment, Transcript


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
    assert [(node.start, node.end) for node in nodes] == [(0.0, 15.0), (15.0, 27.5), (27.5, 40.0)]


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
