"""Captions by functions and by an LLM that look at the pixels they are sent."""

import asyncio
import base64
import io
import pickle
import threading
from typing import Any

import numpy as np
import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, ImageBlock, LLMMetadata, TextBlock
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.llms import CustomLLM
from llama_index.core.schema import Document, MetadataMode, Node
from PIL import Image

from llama_index_mm.errors import ModelError
from llama_index_mm.nodes import retype
from llama_index_mm.readers.media import document_of
from llama_index_mm.transforms.captions import CaptionImages, ReadImageText
from llama_index_mm.transforms.images import LabelImages

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "green": (0, 128, 0)}


def colour_of(picture: Image.Image) -> str:
    """The colour that is nearest to the mean of the pixels."""
    mean = np.asarray(picture, dtype=float).reshape(-1, 3).mean(0)
    return min(COLOURS, key=lambda name: float(np.square(mean - COLOURS[name]).sum()))


def caption(picture: Image.Image) -> str:
    return f"A {colour_of(picture)} picture of {picture.width} x {picture.height}."


class Seer(CustomLLM):
    """Answers with the prompt and the colour of the picture that it is sent."""

    model: str = "seer-1"
    says: str = "{prompt}: {colour}, {size}"
    asked: int = 0
    at_once: int = 0
    most_at_once: int = 0

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError

    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        (message,) = messages
        text, shown = message.blocks
        assert (type(text), type(shown), shown.image_mimetype) == (TextBlock, ImageBlock, "image/jpeg")
        picture = Image.open(io.BytesIO(base64.b64decode(shown.image)))
        self.asked += 1
        colour = colour_of(picture)
        if colour == "green":
            raise RuntimeError("green is not seen")
        said = self.says.format(prompt=text.text, colour=colour, size=f"{picture.width} x {picture.height}")
        return ChatResponse(message=ChatMessage(role="assistant", content=said))

    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.02)
        self.at_once -= 1
        return self.chat(messages)


@pytest.fixture
def red(make):
    return document_of(make.picture("red door.png", "red", (64, 32)))


@pytest.fixture
def others(make):
    return [Document(text="words"), document_of(make.tone("a.wav"))]


def test_a_function(red, others):
    first, second, picture = CaptionImages(caption)([*others, red])
    assert [first, second] == others
    assert picture.text == picture.metadata["mm_caption"] == "A red picture of 64 x 32."
    assert picture.node_id == red.node_id
    assert "mm_caption" not in red.metadata
    assert picture.get_content(MetadataMode.LLM) == picture.get_content(MetadataMode.EMBED) == picture.text
    assert [type(block) for block in picture.get_content_blocks()] == [TextBlock, ImageBlock]


def test_an_llm_is_sent_the_picture(red):
    seer = Seer()
    (picture,) = CaptionImages(seer, prompt="Which colour", longest=32)([red])
    assert picture.text == "Which colour: red, 32 x 16"
    assert seer.asked == 1


def test_the_caption_stands_before_what_was_there(red):
    class Names:
        def labels(self, pictures, *, top=5):
            return [[(colour_of(one), 1.0)] for one in pictures]

    labelled = LabelImages(Names())([red])
    (picture,) = CaptionImages(caption)(labelled)
    assert picture.text == "A red picture of 64 x 32.\nPicture 'red door'. It may show: red 100%."
    assert picture.node_id == labelled[0].node_id


def test_meshes_by_their_views(make):
    pytest.importorskip("open3d")
    from llama_index_mm.transforms.meshes import DescribeMeshes

    def keep(data, suffix):
        return make.bytes(f"views{suffix}", data)

    (mesh,) = DescribeMeshes(keep)([document_of(make.obj("stool.obj"))])
    (seen,) = CaptionImages(caption)([mesh])
    assert seen.text == f"A white picture of 672 x 448.\n{mesh.text}"
    assert seen.views == mesh.views
    assert ReadImageText(caption)([mesh]) == [mesh]
    bare = document_of(make.obj("bare.obj"))
    assert CaptionImages(caption)([bare]) == [bare]


def test_nothing_is_asked_twice(red, make):
    seer = Seer()
    captions = CaptionImages(seer)
    once = captions([red, document_of(make.picture("blue.png", "blue"))])
    assert captions(once) == once
    assert seer.asked == 2
    assert asyncio.run(captions.acall(once)) == once
    assert seer.asked == 2


def test_one_failure_does_not_stop_the_rest(red, make):
    torn, green = make.bytes("torn.png", b"\x89PNG no picture"), make.picture("green.png", "green")
    given = [document_of(torn), red, document_of(green)]
    for run in (CaptionImages(Seer()), lambda nodes: asyncio.run(CaptionImages(Seer()).acall(nodes))):
        with pytest.warns(UserWarning, match=r"CaptionImages: 2 of 3 nodes got no caption; torn\.png: DecodeError: ") as told:
            first, picture, last = run(given)
        assert len(told) == 1
        assert "mm_caption" in picture.metadata
        assert first.metadata["mm_caption_error"].startswith("DecodeError: torn.png can't be decoded as a picture")
        assert last.metadata["mm_caption_error"] == "RuntimeError: green is not seen"
        assert (first.text, last.text) == ("torn", "green")
        assert "green is not seen" not in last.get_content(MetadataMode.LLM)
        assert not {"mm_caption"} & {*first.metadata, *last.metadata}
    make.picture("green.png", "blue")
    (again,) = CaptionImages(caption)([last])
    assert again.metadata["mm_caption"] == "A blue picture of 24 x 16."
    assert "mm_caption_error" not in again.metadata


@pytest.mark.parametrize(
    ("said", "reason"), [("  \n ", "The answer is empty."), (None, "Expected text about the picture, got")]
)
def test_answers_that_say_nothing(red, said, reason):
    with pytest.warns(UserWarning, match=reason):
        (picture,) = CaptionImages(lambda _: said)([red])
    assert picture.metadata["mm_caption_error"].startswith(f"EncodeError: {reason}")


def test_a_model_that_is_not_there_is_raised(red):
    def missing(picture):
        raise ModelError("Weights are missing.")

    for run in (CaptionImages(missing), lambda nodes: asyncio.run(CaptionImages(missing).acall(nodes))):
        with pytest.raises(ModelError, match="Weights are missing"):
            run([red])


def test_answers_are_tidy_and_bounded(red):
    (picture,) = CaptionImages(lambda _: "  A door,\n\n\twide   open. ")([red])
    assert picture.text == "A door, wide open."
    (picture,) = CaptionImages(lambda _: "word " * 100, characters=12)([red])
    assert picture.text == "word word …"
    (picture,) = CaptionImages(lambda _: "x" * 100, characters=5)([red])
    assert picture.text == "xxxxx …"
    (picture,) = CaptionImages(lambda _: "exact", characters=5)([red])
    assert picture.text == "exact"


def test_words_in_pictures(red):
    reading = ReadImageText(lambda _: " OPEN  daily\n\n 9 - 17 \n")
    (picture,) = reading(CaptionImages(caption)([red]))
    assert picture.metadata["mm_ocr"] == "OPEN daily\n9 - 17"
    assert picture.text == "A red picture of 64 x 32.\nText in the picture: OPEN daily\n9 - 17"
    assert reading([picture]) == [picture]


@pytest.mark.parametrize("said", ["NONE", "none.", " \n", ""])
def test_pictures_without_words(red, said):
    seer = Seer(says=said)
    (picture,) = ReadImageText(seer)([red])
    assert (picture.text, picture.metadata["mm_ocr"]) == (red.text, "")
    assert ReadImageText(seer)([picture]) == [picture]
    assert seer.asked == 1


async def test_async_is_the_same_and_bounded(make, others):
    pictures = [document_of(make.picture(f"{at}.png", (at, 0, 255 - at))) for at in range(12)]
    seer = Seer()
    found = await CaptionImages(seer, num_workers=3).acall([*others, *pictures])
    assert seer.most_at_once == 3
    assert found == CaptionImages(Seer())([*others, *pictures])
    assert found[:2] == others
    threads = []

    def watched(picture):
        threads.append(threading.current_thread())
        return caption(picture)

    found = await CaptionImages(watched).acall(pictures)
    assert found == CaptionImages(caption)(pictures)
    assert threading.main_thread() not in threads


def test_fingerprints():
    class Own:
        fingerprint = "own-1"

        def __call__(self, picture):
            return "mine"

    known = [CaptionImages(Seer()), CaptionImages(Seer(model="seer-2")), CaptionImages(Own())]
    known += [CaptionImages(caption, fingerprint="colours-1"), CaptionImages(caption), CaptionImages(caption)]
    assert len({one.fingerprint for one in known}) == 6
    assert all(one.to_dict()["fingerprint"] == one.fingerprint for one in known)
    assert CaptionImages(Seer()).fingerprint == known[0].fingerprint
    assert (known[2].fingerprint, known[3].fingerprint) == ("own-1", "colours-1")
    with pytest.raises(ModelError, match="Expected a tool of fingerprint"):
        CaptionImages(Seer(), fingerprint=known[1].fingerprint)


def test_it_goes_through_pickle_with_its_captioner(red):
    (picture,) = pickle.loads(pickle.dumps(CaptionImages(caption, num_workers=2)))([red])
    assert picture.text == "A red picture of 64 x 32."


def test_a_cache_does_not_mix_models_prompts_or_pictures(red, make):
    cache, seer = IngestionCache(), Seer()
    blue = document_of(make.picture("blue/red door.png", "blue", (64, 32)))

    def run(captions, node):
        (found,) = IngestionPipeline(transformations=[captions], cache=cache).run(documents=[node])
        return retype(found).text

    assert run(CaptionImages(seer, prompt="a"), red) == "a: red, 64 x 32"
    assert run(CaptionImages(seer, prompt="a"), red) == "a: red, 64 x 32"
    assert seer.asked == 1
    assert run(CaptionImages(seer, prompt="b"), red) == "b: red, 64 x 32"
    assert run(CaptionImages(seer, prompt="a"), blue) == "a: blue, 64 x 32"
    assert run(CaptionImages(Seer(model="seer-2", says="another"), prompt="a"), red) == "another"
    assert run(CaptionImages(caption, fingerprint="colours-1"), red) == "A red picture of 64 x 32."
    assert run(CaptionImages(lambda _: "again", fingerprint="colours-1"), red) == "A red picture of 64 x 32."
    assert run(CaptionImages(lambda _: "another"), red) == "another"
    assert seer.asked == 3


def test_nodes_that_a_store_gave_back(red):
    plain = Node.from_dict(red.to_dict())
    assert type(plain) is Node
    (picture,) = CaptionImages(caption)([plain])
    assert picture.text == "A red picture of 64 x 32."


def test_nobody_to_ask(red):
    assert CaptionImages()([red]) == [red]
    written = CaptionImages(Seer(), prompt="a", num_workers=2).to_dict()
    again = CaptionImages.from_dict(written, looker=Seer())
    assert (again.prompt, again.num_workers, again.fingerprint) == ("a", 2, written["fingerprint"])
    assert again([red])[0].text == "a: red, 64 x 32"
    with pytest.raises(ModelError, match="Give it that again"):
        CaptionImages.from_dict(written)
