import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import AudioBlock, ImageBlock
from llama_index.core.schema import ImageNode, MediaResource, MetadataMode, Node, NodeWithScore, TextNode
from PIL import Image

from llama_index_mm.answers import LeftOut, MediaBudget, NumberSources, left_out_of
from llama_index_mm.answers.budget import IMAGE_TOKENS, audio_tokens
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia

DIGEST = "ab" * 32


def words(text):
    return text.split()


def scored(*nodes, scores=None):
    return [NodeWithScore(node=node, score=score) for node, score in zip(nodes, scores or [0.5] * len(nodes), strict=True)]


def kinds(results):
    """Which kind of media each node gives."""
    names = {ImageBlock: "image", AudioBlock: "audio"}
    return ["".join(names.get(type(block), "") for block in found.node.get_content_blocks()) for found in results]


@pytest.fixture(scope="module")
def pictures(make_once):
    return [
        ImageMedia.create(make_once.picture(f"{at}.png", size=(80, 40)), digest=DIGEST, id_=f"p{at}", text="a door")
        for at in range(4)
    ]


@pytest.fixture(scope="module")
def sounds(make_once):
    path = make_once.tone("talk.wav", seconds=6.0)
    return [
        AudioMedia.create(path, digest=DIGEST, id_=f"s{at}", text="hello", start=at * 2.0, end=at * 2.0 + 2, seconds=6.0)
        for at in range(3)
    ]


def test_the_best_pictures_stay_and_the_order_too(pictures):
    found = scored(*pictures, scores=[0.2, 0.9, 0.4, 0.8])
    results = MediaBudget(max_images=2).postprocess_nodes(found)
    assert [result.node.node_id for result in results] == ["p0", "p1", "p2", "p3"]
    assert [result.score for result in results] == [0.2, 0.9, 0.4, 0.8]
    assert kinds(results) == ["", "image", "", "image"]
    reason = "max_images=2 better ones are given"
    assert left_out_of(results) == [LeftOut("p2", "media", reason), LeftOut("p0", "media", reason)]


def test_seconds(sounds):
    results = MediaBudget(max_audio_seconds=4.5).postprocess_nodes(scored(*sounds))
    assert kinds(results) == ["audio", "audio", ""]
    assert left_out_of(results) == [LeftOut("s2", "media", "max_audio_seconds=4.5 leaves 0.5, it has 2")]
    assert results[2].node.get_content() == "hello"
    whole = AudioMedia.create(sounds[0].path, digest=DIGEST, text="hello")  # its length is in the file alone
    assert kinds(MediaBudget(max_audio_seconds=5).postprocess_nodes(scored(whole))) == [""]
    assert kinds(MediaBudget(max_audio_seconds=6).postprocess_nodes(scored(whole))) == ["audio"]


def test_tokens_are_those_that_llama_index_counts(pictures, sounds):
    image, audio = (node.get_content_blocks()[-1] for node in (pictures[0], sounds[0]))
    assert image.estimate_tokens() == IMAGE_TOKENS
    assert audio.estimate_tokens() == audio_tokens(2.0)
    texts = 3 * (2 + 24)
    budget = MediaBudget(max_tokens=texts + 2 * IMAGE_TOKENS, tokenizer=words)
    assert kinds(budget.postprocess_nodes(scored(*pictures[:3]))) == ["image", "image", ""]
    less = MediaBudget(max_tokens=texts + 2 * IMAGE_TOKENS - 1, tokenizer=words).postprocess_nodes(scored(*pictures[:3]))
    assert kinds(less) == ["image", "", ""]
    assert left_out_of(less)[0] == LeftOut("p1", "media", f"max_tokens=4327 leaves {IMAGE_TOKENS - 1}, it counts for 2125")


def test_texts_beyond_the_tokens_are_left_out():
    nodes = [TextNode(id_=name, text=" ".join([name] * count)) for name, count in (("a", 10), ("b", 30), ("c", 6))]
    results = MediaBudget(max_text_tokens=70, tokenizer=words).postprocess_nodes(scored(*nodes))
    assert [result.node.node_id for result in results] == ["a", "c"]
    assert left_out_of(results) == [LeftOut("b", "node", "max_text_tokens=70 leaves 36, its text has 54")]


def test_of_the_best_text_as_much_as_fits():
    node = TextNode(id_="a", text="one two three four five")
    (result,) = MediaBudget(max_text_tokens=27, tokenizer=words).postprocess_nodes(scored(node))
    assert result.node.get_content() == "one two three "
    assert left_out_of([result]) == [LeftOut("a", "end of text", "of 29 tokens max_text_tokens=27 were kept")]
    assert node.text == "one two three four five"


def test_media_that_the_llm_cant_take_cost_nothing(pictures, sounds):
    budget = MediaBudget(max_images=1, llm_media=("audio",), max_tokens=200, tokenizer=words)
    results = budget.postprocess_nodes(scored(*pictures[:2], sounds[0]))
    assert left_out_of(results) == []
    assert kinds(NumberSources(llm_media=("audio",)).postprocess_nodes(results)) == ["", "", "audio"]


def test_pictures_are_scaled_down_in_the_blocks_alone(make):
    node = ImageMedia.create(make.picture("wide.png", size=(300, 120)), digest=DIGEST, mimetype="image/png")
    odd = ImageMedia.create(make.picture("old.bmp", size=(30, 20)), digest=DIGEST, mimetype="image/bmp")
    results = MediaBudget(max_pixels=100).postprocess_nodes(scored(node, odd))
    shown = [Image.open(result.node.get_content_blocks()[-1].resolve_image()) for result in results]
    assert [(one.format, one.size) for one in shown] == [("JPEG", (100, 40)), ("JPEG", (30, 20))]
    assert [result.node.path for result in results] == [node.path, odd.path]
    assert results[0].node.image_resource == node.image_resource
    assert "mm_max_side" not in node.metadata
    as_it_is = MediaBudget(max_pixels=300).postprocess_nodes(scored(node))[0].node.get_content_blocks()[-1]
    assert as_it_is.path == node.path


def test_views_of_a_mesh(make):
    sheet = Image.new("RGB", (30, 20))
    for at in range(6):
        sheet.paste((40 * at, 0, 0), (10 * (at % 3), 10 * (at // 3), 10 * (at % 3) + 10, 10 * (at // 3) + 10))
    sheet.save(make.path("views.png"))
    node = MeshMedia.create(make.obj("chair.obj"), digest=DIGEST, views=str(make.path("views.png")))
    for count, size in ((1, (10, 10)), (2, (20, 10)), (4, (30, 20)), (6, (30, 20))):
        (result,) = MediaBudget(max_views=count).postprocess_nodes(scored(node))
        shown = Image.open(result.node.get_content_blocks()[-1].resolve_image())
        assert (shown.format, shown.size) == ("PNG", size)
        places = [(10 * (at % 3) + 5, 10 * (at // 3) + 5) for at in range(count)]
        assert [shown.getpixel(place)[0] for place in places] == [40 * at for at in range(count)]


def test_nothing_is_told_to_the_llm_or_embedded(pictures):
    results = MediaBudget(max_images=0, max_pixels=10).postprocess_nodes(scored(*pictures[:2]))
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert [result.node.get_metadata_str(mode=mode) for result in results] == ["", ""]


def test_nodes_of_llama_index_itself(make):
    path = make.picture("red.png")
    image = ImageNode(text="a door", image_path=str(path), id_="i")
    other = Node(text_resource=MediaResource(text="a boat"), image_resource=MediaResource(path=path), id_="n")
    results = MediaBudget(max_images=1).postprocess_nodes(scored(image, other))
    assert kinds(results) == ["image", ""]
    results = NumberSources(llm_media=()).postprocess_nodes(scored(image, other))
    assert kinds(results) == ["", ""]
    assert [result.node.get_content() for result in results] == ["a door", "a boat"]
    assert [result.node.node_id for result in results] == ["i", "n"]
    assert image.image_path == str(path)


def test_the_nodes_given_are_not_changed(pictures, sounds):
    given = scored(*pictures, *sounds, TextNode(text="one two three"))
    before = [found.model_copy(deep=True) for found in given]
    MediaBudget(max_images=1, max_audio_seconds=1, max_text_tokens=100, tokenizer=words).postprocess_nodes(given)
    assert given == before


def test_many_threads_share_one(pictures):
    budget, seen = MediaBudget(max_images=1), {}

    def ask(at):
        order = [pictures[at % 4], pictures[(at + 1) % 4]]
        seen[at] = left_out_of(budget.postprocess_nodes(scored(*order)))

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert {at: [note.node_id for note in notes] for at, notes in seen.items()} == {
        at: [f"p{(at + 1) % 4}"] for at in range(16)
    }


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 1)), max_size=8), st.integers(25, 200))
def test_texts_never_exceed_the_budget(texts, most):
    found = [NodeWithScore(node=TextNode(text=" ".join("w" * count)), score=score) for count, score in texts]
    results = MediaBudget(max_text_tokens=most, tokenizer=words).postprocess_nodes(found)
    assert sum(len(words(result.node.get_content())) + 24 for result in results) <= most
    assert bool(results) == bool(found)
    gone = [note for note in left_out_of(results) if note.part == "node"]
    assert len(results) + len(gone) == len(found)


def test_empty_and_serialised():
    assert MediaBudget().postprocess_nodes([]) == []
    assert left_out_of([]) == []
    budget = MediaBudget(max_images=3, tokenizer=words)
    assert MediaBudget.from_dict(budget.to_dict()).to_dict() == MediaBudget(max_images=3).to_dict()
    assert budget.class_name() == "MediaBudget"


def test_the_default_tokenizer_needs_no_network():
    node = TextNode(text="The tide comes in at noon.")
    (result,) = MediaBudget(max_text_tokens=24 + 7).postprocess_nodes(scored(node))
    assert result.node.text == node.text
