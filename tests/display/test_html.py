import base64
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.llms import MockLLM
from llama_index.core.schema import NodeWithScore, TextNode
from PIL import Image

from llama_index_mm.answers import NumberSources
from llama_index_mm.display import Section, embed, results_page, write_page
from llama_index_mm.media import Waveform, load_audio, wav_bytes
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia
from llama_index_mm.retrieval import MediaRerank
from llama_index_mm.retrieval.reasons import ChannelReason, attach_reasons

DIGEST = "0" * 64
HOSTILE = "</style></title><script>alert(1)</script>\"'><img src=x onerror=alert(2)>javascript:alert(3)&amp;\x00\ud800"
VOID = {"base", "br", "img", "meta"}


class Page(HTMLParser):
    """A page that must be balanced, with its elements and their text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), "an attribute twice"
        entry = {"tag": tag, "text": "", "inside": [one["tag"] for one in self.open], **dict(attrs)}
        self.elements.append(entry)
        if tag not in VOID:
            self.open.append(entry)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for entry in self.open:
            entry["text"] += data

    def all(self, tag, class_=None):
        return [one for one in self.elements if one["tag"] == tag and class_ in (None, *(one.get("class") or "").split())]

    def one(self, tag, class_=None):
        (found,) = self.all(tag, class_)
        return found


def page_of(*nodes, title="query", page=None, **section):
    found = [node if isinstance(node, NodeWithScore) else NodeWithScore(node=node, score=0.5) for node in nodes]
    return Page(results_page([Section(title, found, **section)], **(page or {})))


def data_of(uri, mimetype):
    head, _, body = uri.partition(",")
    assert head == f"data:{mimetype};base64"
    return base64.b64decode(body, validate=True)


def picture(path, size=(900, 600)):
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def recording(path, seconds=6.0):
    times = np.arange(int(seconds * 16_000)) / 16_000
    pitch = 200 + 100 * np.floor(times)  # a step up every second
    path.write_bytes(wav_bytes(Waveform((0.5 * np.sin(2 * np.pi * pitch * times)).astype(np.float32))))
    return path


def image_node(path, **options):
    return ImageMedia.create(path, digest=DIGEST, **options)


def audio_node(path, **options):
    return AudioMedia.create(path, digest=DIGEST, **options)


def hostile_nodes():
    bad = {"file_name": HOSTILE, HOSTILE: HOSTILE}
    nodes = [
        image_node(f"/none/{HOSTILE}.png", text=HOSTILE, metadata=bad),
        audio_node(f"/none/{HOSTILE}.wav", text=HOSTILE, metadata=bad, language=HOSTILE, start=1.0, end=2.0, speech=True),
        MeshMedia.create(f"/none/{HOSTILE}.obj", digest=DIGEST, text=HOSTILE, views=HOSTILE, metadata=bad),
        TextNode(text=HOSTILE, metadata=bad),
        TextNode(text=HOSTILE * 30, metadata={"file_path": "javascript:alert(1)"}),
    ]
    for node in nodes:
        attach_reasons(node, [ChannelReason(HOSTILE, HOSTILE, 0.5, 0.5, 1.0, 0.5)])
    return nodes


def assert_harmless(page):
    assert not page.all("script")
    policy = next(one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline';")
    for one in page.elements:
        assert one["tag"] not in {"iframe", "object", "embed", "link", "form", "base"}
        assert not [key for key in one if key.startswith("on")]
        if "src" in one:
            assert one["src"].startswith(("data:image/jpeg;base64,", "data:audio/mpeg;base64,", "data:audio/wav;base64,"))
        if "href" in one:
            assert one["href"].startswith(("#", "./", "file:"))
    (style,) = page.all("style")
    assert "url(" not in style["text"]
    assert "@import" not in style["text"]
    ids = [one["id"] for one in page.elements if one.get("id")]
    assert len(ids) == len(set(ids))


def test_picture_is_scaled_jpeg(tmp_path):
    page = page_of(image_node(picture(tmp_path / "sea_shore.png"), text="a shore"))
    image = page.one("img")
    with Image.open(io.BytesIO(data_of(image["src"], "image/jpeg"))) as decoded:
        assert decoded.format == "JPEG"
        assert max(decoded.size) == 640
    assert image["alt"] == "Picture sea_shore.png"
    card = page.one("article")
    assert "a shore" in card["text"]
    assert page.one("span", "badge")["text"] == "Image"
    assert page.one("p", "score")["text"].endswith("0.50")
    assert_harmless(page)


def test_audio_is_the_span(tmp_path):
    path = recording(tmp_path / "talk.wav")
    page = page_of(audio_node(path, text="hello there", start=2.0, end=4.5, seconds=6.0, language="en", speech=True))
    player = page.one("audio")
    sound = load_audio(data_of(player["src"], "audio/mpeg"))
    assert sound.seconds == pytest.approx(2.5, abs=0.02)
    spectrum = np.abs(np.fft.rfft(sound.cut(0.1, 0.9).samples))
    assert np.argmax(spectrum) / 0.8 == pytest.approx(400, abs=5)  # the third second of the recording
    assert "controls" in player
    assert page.one("p", "facts")["text"] == "0:02-0:04 of 0:06 · speech · language: en"
    assert page.one("blockquote")["lang"] == "en"
    assert page.one("blockquote")["text"] == "hello there"


def test_whole_recording_without_encoder_is_wav(tmp_path, monkeypatch):
    monkeypatch.setattr(pytest.importorskip("av"), "codecs_available", set())
    page = page_of(audio_node(recording(tmp_path / "rain.wav", 1.5)))
    assert load_audio(data_of(page.one("audio")["src"], "audio/wav")).seconds == 1.5
    assert page.one("p", "facts")["text"] == "whole recording · no speech heard"
    assert not page.all("blockquote")


def test_mesh_shows_its_sheet(tmp_path):
    views = picture(tmp_path / "views.png", (672, 448))
    node = MeshMedia.create(tmp_path / "chair.obj", digest=DIGEST, text="chair. 3D model, 8 vertices.", views=str(views))
    page = page_of(node)
    with Image.open(io.BytesIO(data_of(page.one("img")["src"], "image/jpeg"))) as decoded:
        assert decoded.size == (640, 427)
    assert page.one("img")["alt"] == "Six views of chair.obj"
    assert "8 vertices" in page.one("figcaption")["text"]


def test_mesh_without_sheet_is_rendered(tmp_path):
    pytest.importorskip("open3d")
    path = tmp_path / "wedge.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n")
    node = MeshMedia.create(path, digest=DIGEST, views=str(tmp_path / "gone.png"))
    page = page_of(node, query_media=path)
    asked, shown = page.all("img")
    for image, longest in ((asked, 320), (shown, 640)):
        with Image.open(io.BytesIO(data_of(image["src"], "image/jpeg"))) as decoded:
            assert max(decoded.size) == longest


def test_text_is_clipped_and_the_rest_folded():
    text = "word " * 400
    page = page_of(TextNode(text=text, metadata={"file_path": "/texts/long.txt"}))
    (details,) = page.all("details")
    shown = page.one("div", "words")["text"]
    assert len(shown) - len(details["text"]) <= 602
    assert shown.count("word") == 400
    assert page.one("h3")["text"] == "long.txt"


def test_huge_text_is_cut():
    page = page_of(TextNode(text="x" * 100_000))
    assert len(page.one("article")["text"]) < 21_000
    assert "79,400 more characters are not in this page." in page.one("article")["text"]
    assert page.one("h3")["text"] == "A text without a file"


def test_wrapped_lines_are_joined_and_short_ones_kept():
    page = page_of(TextNode(text=f"{'long ' * 14}\nline\n- one\n- two\n\nnext"))
    assert [one["text"] for one in page.all("p") if "words" not in one and "div" in one["inside"]][-2:] == [
        f"{'long ' * 14} line\n- one\n- two",
        "next",
    ]


def test_reasons_are_a_table():
    node = TextNode(text="x")
    attach_reasons(
        node, [ChannelReason("text", "picture", 0.41, 0.76, 1.0, 0.61), ChannelReason("text", "e5", 0.8, 0.2, 0.25, 0.1)]
    )
    page = page_of(node)
    assert [one["text"] for one in page.all("td")] == [
        *("text", "picture", "0.61", "0.76", "1", "0.41"),
        *("text", "e5", "0.10", "0.20", "0.25", "0.80"),
    ]
    assert all(one["scope"] == "col" for one in page.all("th"))
    assert "details" in page.one("table")["inside"]


def test_what_the_shares_add_up_to():
    node = TextNode(text="x")
    attach_reasons(
        node, [ChannelReason("text", "picture", 0.41, 0.76, 1.0, 0.61), ChannelReason("text", "e5", 0.8, 0.2, 0.25, 0.1)]
    )
    for score, told in ((0.71, "of the result."), (0.9, "that the search gave, 0.71."), (None, "that the search gave, 0.71.")):
        assert page_of(NodeWithScore(node=node, score=score)).one("caption")["text"] == f"The shares add up to the score {told}"


def test_the_word_of_an_llm_that_ranked():
    class Judge(MockLLM):
        def chat(self, messages, **_):
            said = '{"items": [{"number": 1, "relevance": 9, "reason": "a <b>boat</b>"}, {"number": 2, "relevance": 4}]}'
            return ChatResponse(message=ChatMessage(content=said))

    found = [NodeWithScore(node=TextNode(text="boat"), score=0.4), NodeWithScore(node=TextNode(text="b"))]
    found.append(NodeWithScore(node=TextNode(text="c"), score=0.2))
    page = page_of(*MediaRerank(llm=Judge()).postprocess_nodes(found, query_str="a boat"))
    assert [one["text"] for one in page.all("p", "facts")] == [
        "Rated 0.90 by unknown (0.40 by the search): a <b>boat</b>",
        "Rated 0.40 by unknown.",
        "Not rated by unknown (0.20 by the search).",
    ]
    assert not page.all("b")


def test_reasons_without_a_raw_score_and_of_what_is_not_wanted():
    node = TextNode(text="x")
    reasons = [
        ChannelReason("query", "bm25", None, 0.5, 2.0, 0.5),
        ChannelReason("image 2", "picture", 0.9, 0.75, 1.0, -0.25, negative=True),
    ]
    attach_reasons(node, reasons)
    assert [one["text"] for one in page_of(node).all("td")] == [
        *("query", "bm25", "0.50", "0.50", "2", ""),
        *("not image 2", "picture", "-0.25", "0.75", "1", "0.90"),
    ]


def test_hostile_text_is_escaped(tmp_path):
    section = Section(
        HOSTILE,
        [NodeWithScore(node=node, score=0.5) for node in hostile_nodes()],
        query_media=tmp_path / "x.png",
        answer=f"{HOSTILE} [1] [<b>]",
        note=HOSTILE,
    )
    for limit in (0, 10**6):
        text = results_page([section, section], title=HOSTILE, max_bytes=limit)
        text.encode("utf-8")  # no lone surrogates
        assert "\x00" not in text
        page = Page(text)
        assert_harmless(page)
        assert not page.all("b")
        assert {one["tag"] for one in page.elements if "script" in one["text"]} >= {"title", "h1", "h2", "td", "p"}
        assert not [one for one in page.elements if one.get("lang") not in (None, "en")]


@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=40) | st.sampled_from(["<!--", "]]>", "&lt;", "<a href='x", "</p>", "\x85<b>", "[1]<i>"]))
def test_any_text_keeps_the_page_whole(text):
    node = AudioMedia.create("/none/a.wav", digest=DIGEST, text=text, language=text, metadata={"file_name": text})
    page = page_of(node, TextNode(text=text), title=text, answer=text, note=text)
    assert_harmless(page)
    assert len(page.all("article")) == 2
    assert not page.all("b") + page.all("i")


@pytest.mark.parametrize("make", [image_node, audio_node])
def test_missing_and_broken_files_are_named(tmp_path, make):
    broken = tmp_path / "broken.bin"
    broken.write_bytes(b"neither sound nor picture")
    page = page_of(make(tmp_path / "gone.bin", text="kept"), make(broken), TextNode(text="fine"), query_media=broken)
    asked, missing, wrong = (one["text"] for one in page.all("p", "notice"))
    assert "No decoder for '.bin'" in asked
    assert missing == "Can't be shown. Expected a regular file, but gone.bin is missing."
    assert "broken.bin can't be decoded" in wrong
    assert "kept" in page.all("article")[0]["text"]
    assert not page.all("img") + page.all("audio")


@pytest.mark.parametrize(
    "metadata",
    [
        {"mm_modality": "image"},
        {"mm_modality": ["image"]},
        {"mm_modality": "image", "mm_path": 7},
        {"mm_modality": "audio", "mm_path": "a.wav", "mm_start": "soon"},
        {"mm_modality": "audio", "mm_path": "a.wav", "mm_start": float("inf"), "mm_end": float("nan")},
        {"mm_modality": "mesh", "mm_path": "a.obj", "mm_views": {}},
        {"mm_reasons": "{"},
        {"mm_reasons": json.dumps([{"part": "text"}])},
        {"mm_rerank": "{"},
        {"mm_rerank": json.dumps({"relevance": "high", "reason": 1, "retrieved": 0.5, "model": "x"})},
        {"mm_number": "1"},
        {"mm_path": "/"},
    ],
)
def test_odd_metadata_does_not_break_the_page(metadata):
    page = page_of(TextNode(text="odd", metadata=metadata), TextNode(text="fine"))
    assert len(page.all("article")) == 2
    assert page.all("article")[1]["text"].endswith("fine")


@pytest.mark.parametrize(
    ("score", "shown", "width"), [(None, "no score", None), (7.0, "7.00", "100.0%"), (-1.0, "-1.00", "0.0%")]
)
def test_scores_out_of_range(score, shown, width):
    page = page_of(NodeWithScore(node=TextNode(text="x"), score=score))
    assert page.one("p", "score")["text"].endswith(shown)
    assert [one["style"] for one in page.elements if "style" in one] == ([f"width:{width}"] if width else [])


def test_bytes_are_bounded_and_the_rest_linked(tmp_path):
    nodes = [image_node(picture(tmp_path / f"{at} #1%.png", (200, 200))) for at in range(4)]
    size = len(page_of(nodes[0]).one("img")["src"])
    path = write_page(tmp_path / "page.html", [Section("q", [NodeWithScore(node=node) for node in nodes])], max_bytes=2 * size)
    page = Page(path.read_text(encoding="utf-8"))
    assert sum(len(image["src"]) for image in page.all("img")) == 2 * size
    links = [one["href"] for one in page.all("a")]
    assert links == ["./2%20%231%25.png", "./3%20%231%25.png"]
    assert "whose limit is" in page.all("p", "notice")[0]["text"]
    elsewhere = page_of(nodes[0], page={"max_bytes": 0})
    assert elsewhere.one("a")["href"] == (tmp_path / "0 #1%.png").as_uri()
    assert "limit is 0 bytes" in elsewhere.one("p", "notice")["text"]


def test_long_span_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = recording(tmp_path / "javascript:x.wav", 1.0)
    monkeypatch.setattr("llama_index_mm.display.embed.load_audio", lambda *_, **__: pytest.fail("decoded"))
    page = page_of(audio_node(path, start=10.0, end=5000.0), page={"max_bytes": 1_000_000, "folder": tmp_path})
    assert page.one("a")["href"] == "./javascript%3Ax.wav#t=10,5000"


def test_same_media_is_encoded_once(tmp_path, monkeypatch):
    node = image_node(picture(tmp_path / "a.png", (50, 50)))
    page_of(node)
    calls = []
    decode = embed.load_image
    monkeypatch.setattr(embed, "load_image", lambda path: calls.append(path) or decode(path))
    assert len(page_of(node, node).all("img")) == 2
    assert len(calls) == 1


def test_citations_link_to_cards():
    nodes = [NodeWithScore(node=TextNode(text=f"text {at}"), score=0.5) for at in range(3)]
    page = page_of(*nodes, answer="So it is [1], as others say [2, 3][9].\n\nNot [x] <b>.")
    links = [one for one in page.all("a") if "p" in one["inside"]]
    assert [(one["href"], one["text"]) for one in links] == [("#s1-n1", "1"), ("#s1-n2", "2"), ("#s1-n3", "3")]
    assert {one["id"] for one in page.all("article")} == {"s1-n1", "s1-n2", "s1-n3"}
    assert page.one("div", "answer")["text"] == "AnswerSo it is [1], as others say [2, 3][9].Not [x] <b>."
    other = page_of(*nodes, answer="So 【1】, [2-3] and [Source 2]; a[2 x] is none.")
    assert [one["href"] for one in other.all("a") if "p" in one["inside"]] == ["#s1-n1", "#s1-n2", "#s1-n3", "#s1-n2"]


def test_numbers_are_those_the_llm_was_given():
    nodes = NumberSources().postprocess_nodes([NodeWithScore(node=TextNode(text=f"text {at}"), score=0.5) for at in range(3)])
    page = page_of(*nodes[1:], answer="See [3], not [1].")
    assert [one["text"] for one in page.all("span", "number")] == ["2", "3"]
    assert [one["href"] for one in page.all("a")] == ["#s1-n3"]


def test_query_media_stands_by_the_title(tmp_path):
    shown = page_of(query_media=picture(tmp_path / "a.png"))
    with Image.open(io.BytesIO(data_of(shown.one("img")["src"], "image/jpeg"))) as decoded:
        assert max(decoded.size) == 320
    assert "header" in shown.one("img")["inside"]
    assert "Nothing was found." in shown.one("section")["text"]
    heard = page_of(query_media=recording(tmp_path / "a.wav", 1.0))
    assert load_audio(data_of(heard.one("audio")["src"], "audio/mpeg")).seconds == pytest.approx(1.0, abs=0.02)


def test_page_has_structure(tmp_path):
    sections = [Section("first", [NodeWithScore(node=TextNode(text="a"))]), Section("second", [], answer="", note="a note")]
    path = write_page(str(tmp_path / "page.html"), sections, title="Found")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.one("html")["lang"] == "en"
    assert page.one("title")["text"] == page.one("h1")["text"] == "Found"
    assert [one["href"] for one in page.all("a") if "nav" in one["inside"]] == ["#s1", "#s2"]
    titles = {one["id"]: one["text"] for one in page.elements if one["tag"] in ("h2", "h3") and "id" in one}
    labelled = [one["aria-labelledby"] for one in page.all("section") + page.all("article")]
    assert [titles[label] for label in labelled] == ["first", "second", "A text without a file"]
    assert "a note" in page.all("section")[1]["text"]
    assert "The answer is empty." in page.one("div", "answer")["text"]
    assert "1 result" in page.all("section")[0]["text"]


def test_page_without_sections():
    page = Page(results_page([]))
    assert page.one("main")["text"] == "There are no results."
