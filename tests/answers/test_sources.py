import io
import json
import wave
from pathlib import Path

import pytest
from llama_index.core.base.llms.types import AudioBlock, ImageBlock, TextBlock
from llama_index.core.schema import Document, ImageNode, MediaResource, MetadataMode, Node, NodeWithScore, QueryBundle, TextNode

from llama_index_mm.answers import Citation, NumberSources, citations_of
from llama_index_mm.errors import DecodeError
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia, node_from_json, node_to_json
from llama_index_mm.retrieval import ChannelReason
from llama_index_mm.retrieval.reasons import attach_reasons
from llama_index_mm.transforms.pages import SplitPages

DIGEST = "ab" * 32


def number(*nodes, llm_media=("image",)):
    found = [NodeWithScore(node=node, score=0.9 - at / 8) for at, node in enumerate(nodes)]
    return NumberSources(llm_media=llm_media).postprocess_nodes(found, query_bundle=QueryBundle("why?"))


def seen(result):
    """What an LLM gets: texts as they are, media by their kind."""
    blocks = result.node.get_content_blocks(metadata_mode=MetadataMode.LLM)
    return [block.text if isinstance(block, TextBlock) else type(block).__name__ for block in blocks]


def words(text="The tide comes in.", **metadata):
    return TextNode(text=text, metadata=metadata)


@pytest.fixture
def media(make):
    """A node of every modality, with files that can be read."""
    facts = {"digest": DIGEST, "metadata": {"place": "harbour"}}
    sheet = make.picture("views.png", size=(12, 8))
    return {
        "image": ImageMedia.create(make.picture("red door.png"), text="a door", **facts),
        "audio": AudioMedia.create(make.tone("talk.wav", seconds=2.0), text="hello", start=0.5, end=1.75, **facts),
        "mesh": MeshMedia.create(make.obj("chair.obj"), text="3D model", views=str(sheet), **facts),
        "text": words(file_path="notes/tide.txt"),
    }


# -- numbers and labels ---------------------------------------------------------------------------------------------------


def test_numbers_count_from_one_in_the_order_given():
    results = number(words("a"), words("b"), words("c"))
    assert [str(one) for one in citations_of(results)] == [f"[{at}] a text without a file" for at in (1, 2, 3)]
    assert [result.node.get_content() for result in results] == ["a", "b", "c"]
    assert [result.score for result in results] == [0.9, 0.775, 0.65]
    assert number() == []


@pytest.mark.parametrize(
    ("start", "end", "label"),
    [
        (65, 80.4, "talk.ogg, 1:05-1:20"),
        (0.0, 9.6, "talk.ogg, 0:00-0:10"),
        (3599.6, 7325, "talk.ogg, 1:00:00-2:02:05"),
        (None, None, "talk.ogg"),
    ],
)
def test_labels_of_recordings(start, end, label):
    node = AudioMedia.create("sounds/talk.ogg", digest=DIGEST, start=start, end=end)
    (citation,) = citations_of(number(node))
    assert (citation.label, str(citation)) == (label, f"[1] {label}")
    assert (citation.start, citation.end) == (start, end)


def test_labels_of_other_nodes():
    nodes = [
        ImageMedia.create("dir/red door.png", digest=DIGEST),
        MeshMedia.create("chair.obj", digest=DIGEST),
        words(file_path="notes/tide.txt"),
        Document(text="words", metadata={"file_path": "/notes/a.md"}),
        words(file_name="only a name.txt"),
    ]
    labels = [citation.label for citation in citations_of(number(*nodes))]
    assert labels == ["red door.png", "chair.obj", "tide.txt", "a.md", "a text without a file"]


def test_citations_say_everything(media):
    results = number(*media.values())
    image, audio, mesh, text = citations_of(results)
    assert image == Citation(1, "image", media["image"].path, None, None, 0.9, "a door")
    assert audio == Citation(2, "audio", media["audio"].path, 0.5, 1.75, 0.775, "hello")
    assert mesh == Citation(3, "mesh", media["mesh"].path, None, None, 0.65, "3D model", views=str(media["mesh"].views))
    assert text == Citation(4, "text", Path("notes/tide.txt"), None, None, 0.525, "The tide comes in.")


def test_citations_survive_serialising(media):
    results = number(*media.values())
    loaded = [
        NodeWithScore(node=node_from_json(node_to_json(result.node), result.node.class_name()), score=result.score)
        for result in results
    ]
    assert citations_of(loaded) == citations_of(results)
    plain = [NodeWithScore(node=Node.from_json(result.node.to_json()), score=result.score) for result in results[:3]]
    assert citations_of(plain) == citations_of(results)[:3]


def test_nodes_without_a_number_are_left_out():
    (numbered,) = number(words("a"))
    assert citations_of([NodeWithScore(node=words("b"), score=1.0), numbered]) == citations_of([numbered])
    assert citations_of([]) == []
    (unscored,) = NumberSources().postprocess_nodes([NodeWithScore(node=words())])
    assert citations_of([unscored])[0].score == 0.0


def test_numbering_again_replaces_the_numbers(media):
    nodes = list(media.values())
    again = NumberSources().postprocess_nodes(number(*nodes)[::-1])
    assert [str(one)[:3] for one in citations_of(again)] == ["[1]", "[2]", "[3]", "[4]"]
    assert [result.node.to_dict() for result in again] == [result.node.to_dict() for result in number(*nodes[::-1])]


# -- copies ---------------------------------------------------------------------------------------------------------------


def test_the_nodes_given_are_not_changed(media):
    given = [NodeWithScore(node=node, score=0.5) for node in media.values()]
    before = [found.model_copy(deep=True) for found in given]
    results = NumberSources(llm_media=()).postprocess_nodes(given)
    for result in results:
        result.node.metadata["more"] = 1
        result.node.excluded_llm_metadata_keys.append("more")
    assert given == before
    assert [type(result.node) for result in results] == [type(found.node) for found in given]
    assert not any("mm_number" in found.node.metadata for found in given)


# -- what the LLM sees ----------------------------------------------------------------------------------------------------


def test_source_metadata_and_text_in_this_order(media):
    results = number(*media.values(), words("plain"), llm_media=("image", "audio"))
    assert [seen(result) for result in results] == [
        ["[1] red door.png: \nplace: harbour", "a door", "ImageBlock"],
        ["[2] talk.wav, 0:00-0:02: \nplace: harbour", "hello", "AudioBlock"],
        ["[3] chair.obj: \nplace: harbour", "3D model", "ImageBlock"],
        ["[4] tide.txt: \nfile_path: notes/tide.txt", "The tide comes in."],
        ["[5] a text without a file:", "plain"],
    ]


@pytest.mark.parametrize(
    ("llm_media", "kept"),
    [
        ((), set()),
        (("image",), {"image", "mesh"}),
        (("audio",), {"audio"}),
        (("image", "audio"), {"image", "audio", "mesh"}),
    ],
)
def test_media_that_the_llm_cant_take_becomes_text(media, llm_media, kept):
    results = dict(zip(media, number(*media.values(), llm_media=llm_media), strict=True))
    kinds = {"image": "ImageBlock", "audio": "AudioBlock", "mesh": "ImageBlock"}
    assert {modality for modality, kind in kinds.items() if kind in seen(results[modality])} == kept
    for modality, node in media.items():
        assert node.get_content() in seen(results[modality])


def test_blocks_hold_the_media_itself(media):
    image, audio, mesh, _ = (
        result.node.get_content_blocks(metadata_mode=MetadataMode.LLM)[-1]
        for result in number(*media.values(), llm_media=("image", "audio"))
    )
    assert isinstance(image, ImageBlock)
    assert isinstance(mesh, ImageBlock)
    assert (image.path, mesh.path) == (media["image"].path, media["mesh"].views)
    assert isinstance(audio, AudioBlock)
    with wave.open(io.BytesIO(audio.resolve_audio().read())) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(1.25)


def test_media_is_read_only_if_the_llm_takes_it():
    """Files that are gone can still be cited."""
    gone = AudioMedia.create("gone.ogg", digest=DIGEST, text="hello", start=0.0, end=2.0)
    (result,) = number(gone, llm_media=())
    assert seen(result) == ["[1] gone.ogg, 0:00-0:02:", "hello"]


def test_metadata_of_the_user_is_kept():
    """Also under names that might be used here, and in the user's own form."""
    node = words("text", source="https://example.org", author="archive", secret="x", mm="y")
    node.excluded_llm_metadata_keys = ["secret"]
    node.metadata_template = "<{key}|{value}>"
    node.metadata_separator = " "
    node.text_template = "{content} || {metadata_str}"
    (result,) = number(node)
    expected = "<[1] a text without a file|> <source|https://example.org> <author|archive> <mm|y>"
    assert result.node.get_content(metadata_mode=MetadataMode.LLM) == f"text || {expected}"
    assert seen(result) == [expected, "text"]
    assert {key: result.node.metadata[key] for key in node.metadata} == node.metadata


def test_a_form_without_keys():
    node = words("text", author="archive")
    node.metadata_template = "{value}"
    (result,) = number(node)
    assert result.node.get_content(metadata_mode=MetadataMode.LLM) == "[1] a text without a file\narchive\n\ntext"


def test_hiding_the_users_own_source_does_not_hide_the_number():
    node = words("text", source="https://example.org")
    node.excluded_llm_metadata_keys = ["source"]
    assert seen(number(node)[0]) == ["[1] a text without a file:", "text"]


def test_reasons_and_facts_are_not_shown(media):
    attach_reasons(media["text"], [ChannelReason("text", "words", 0.5, 0.5, 1.0, 0.5)])
    attach_reasons(media["image"], [ChannelReason("image", "picture", 0.5, 0.5, 1.0, 0.5)])
    media["text"].excluded_llm_metadata_keys.remove("mm_reasons")
    for result in number(*media.values(), llm_media=()):
        assert "mm_" not in "".join(seen(result))


def test_media_nodes_that_were_loaded_as_plain_nodes(media):
    plain = Node.from_json(media["audio"].to_json())
    assert type(plain) is Node
    (result,) = number(plain, llm_media=("audio",))
    assert type(result.node) is AudioMedia
    assert citations_of([result])[0].label == "talk.wav, 0:00-0:02"
    other = Node(text_resource=MediaResource(text="words"), metadata={"file_path": "a.txt"})
    assert seen(number(other)[0]) == ["[1] a.txt: \nfile_path: a.txt", "words"]


# -- what can't be read any more, and where sources are -------------------------------------------------------------------


def test_a_file_that_breaks_on_the_way_becomes_text(make, caplog):
    """It is there when sources are numbered, and can't be decoded when the blocks are made."""
    broken = AudioMedia.create(make.bytes("talk.wav", b"RIFF no sound"), digest=DIGEST, text="hello", start=0.0, end=2.0)
    with pytest.raises(DecodeError):
        broken.get_content_blocks()
    (result,) = number(broken, llm_media=("audio",))
    assert seen(result) == ["[1] talk.wav, 0:00-0:02:", "hello"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "given to the LLM as text" in caplog.text


def test_pages_of_a_document():
    """By the label that the document gives them, and by their place in the file."""
    whole = Document(
        id_="d",
        text="one\ftwo",
        metadata={"file_path": "a/report.pdf", "mm_pages": 2, "mm_page_labels": json.dumps(["iv", "1"])},
    )
    cited = citations_of(number(*SplitPages()([whole])))
    assert [one.label for one in cited] == ["report.pdf, p. iv", "report.pdf, p. 1"]
    assert [(one.page, one.page_number, one.text) for one in cited] == [("iv", 1, "one"), ("1", 2, "two")]
    unlabelled = words(file_path="b.pdf", mm_page=3)
    assert citations_of(number(unlabelled))[0].label == "b.pdf, p. 3"


def test_names_with_brackets_and_line_ends():
    node = words(file_path="a/b[2]\nc.txt")
    (citation,) = citations_of(number(node))
    assert (citation.label, citation.file.name) == ("b(2) c.txt", "b[2]\nc.txt")


def test_llama_indexs_own_nodes_whose_file_is_gone_become_text(make):
    there, gone = make.picture("a.png"), make.folder / "gone.png"
    said = MediaResource(text="a door")
    nodes = [
        ImageNode(text="a door", image_path=str(there)),
        ImageNode(text="a door", image_path=str(gone)),
        Node(text_resource=said, image_resource=MediaResource(path=gone)),
        Node(text_resource=said, audio_resource=MediaResource(path=gone)),
        Node(text_resource=said, video_resource=MediaResource(path=gone)),
    ]
    results = number(*nodes, llm_media=("image", "audio"))
    assert seen(results[0])[-1] == "ImageBlock"
    for at, result in enumerate(results[1:], 2):
        assert seen(result) == [f"[{at}] a text without a file:", "a door"]
