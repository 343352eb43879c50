"""Every form in which a part can be given leads to the same vector."""

import copy
import dataclasses
import io
import wave

import numpy as np
import pytest
from llama_index.core.schema import ImageNode, Node, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters
from PIL import Image

from llama_index_mm.embeddings.payloads import file_payload, mesh_suffix, part_payload
from llama_index_mm.errors import DecodeError, EncodeError, QueryError
from llama_index_mm.ingestion import encode_nodes
from llama_index_mm.media import SAMPLE_RATE, Mesh, Waveform, digest_file, load_audio, load_mesh, load_picture, wav_bytes
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia
from llama_index_mm.retrieval import FusionRetriever, MediaQuery, reasons_of
from llama_index_mm.retrieval.channels import plan
from llama_index_mm.retrieval.parts import same
from llama_index_mm.retrieval.query import parts_of
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import HashingEncoder, tiny_preset

SPACES = tiny_preset().spaces
CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("parts")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).save(home / "a.png")
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    with wave.open(str(home / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((9000 * np.sin(2 * np.pi * 440 * time)).astype("<i2").tobytes())
    vertices = "".join(f"v {x:g} {y:g} {z:g}\n" for x, y, z in CORNERS)
    faces = "".join(f"f {a + 1} {b + 1} {c + 1}\n" for a, b, c in FACES)
    (home / "a.obj").write_text(f"# a corner\n{vertices}{faces}")
    return home


def media(cls, path, **facts):
    return cls.create(path, digest=digest_file(path), id_="node", **facts)


# -- pictures -------------------------------------------------------------------------------------------------------------


def pictures(path):
    image = Image.open(io.BytesIO(path.read_bytes()))
    pixels = np.asarray(image)
    return {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "memoryview": memoryview(path.read_bytes()),
        "open": io.BufferedReader(io.BytesIO(path.read_bytes())),
        "in memory": io.BytesIO(path.read_bytes()),
        "picture": load_picture(path),
        "PIL": image,
        "PIL RGBA": image.convert("RGBA"),
        "uint8": pixels,
        "floats": pixels / 255,
        "float32": (pixels / 255).astype(np.float32),
        "strided": np.ascontiguousarray(pixels[::-1])[::-1],
        "node": media(ImageMedia, path),
        "result": NodeWithScore(node=media(ImageMedia, path), score=0.1),
        "node from a foreign store": Node(**media(ImageMedia, path).model_dump()),
    }


FORMS = ("path", "text", "bytes", "bytearray", "memoryview", "open", "in memory", "picture", "PIL", "PIL RGBA", "uint8")
FORMS += ("floats", "float32", "strided", "node", "result", "node from a foreign store")


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_in_every_form(folder, form):
    expected = np.asarray(load_picture(folder / "a.png").image)
    query = MediaQuery(image=pictures(folder / "a.png")[form])
    (part,) = parts_of(query)
    for _ in range(2):  # nothing is used up
        payload = part_payload(part.value, "image")
        assert payload.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(payload), expected)
    assert copy.deepcopy(query) == query


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.full((2, 3), 7, np.uint8), [7, 7, 7]),
        (np.full((2, 3, 1), 7, np.uint8), [7, 7, 7]),
        (np.full((2, 3, 1), 1.0), [255, 255, 255]),
        (np.full((2, 3), 0.5), [128, 128, 128]),
        (np.full((2, 3, 4), [200, 100, 0, 0], np.uint8), [255, 255, 255]),  # transparent: white
        (np.full((2, 3, 4), [200, 100, 0, 255], np.uint8), [200, 100, 0]),
        (Image.new("L", (3, 2), 9), [9, 9, 9]),
        (Image.new("1", (3, 2), 1), [255, 255, 255]),
        (Image.new("LA", (3, 2), (9, 0)), [255, 255, 255]),
        (Image.new("RGBa", (3, 2), (0, 0, 0, 0)), [255, 255, 255]),
        (Image.new("CMYK", (3, 2), (0, 255, 255, 0)), [255, 0, 0]),
        (Image.new("HSV", (3, 2), (0, 0, 80)), [80, 80, 80]),
        (Image.new("P", (3, 2), 0), [0, 0, 0]),
    ],
)
def test_pictures_of_every_mode_become_rgb(given, expected):
    (part,) = parts_of(MediaQuery(image=given))
    payload = part_payload(part.value, "image")
    assert (payload.mode, payload.size) == ("RGB", (3, 2))
    np.testing.assert_array_equal(np.asarray(payload), np.full((2, 3, 3), expected))


def test_a_picture_in_memory_is_upright_and_not_too_large():
    lying = Image.new("RGB", (3000, 10), "red")
    lying.getexif()[0x0112] = 6  # turned by a quarter
    payload = part_payload(lying, "image")
    assert payload.size == (3, 1024)
    assert (lying.size, lying.getexif()[0x0112]) == ((3000, 10), 6)


def test_a_file_is_read_when_the_query_is_made(folder):
    with (folder / "a.png").open("rb") as file:
        query = MediaQuery(image=[file, "b.png"])
    assert query.image == [(folder / "a.png").read_bytes(), "b.png"]
    with Image.open(folder / "a.png") as image:
        query = MediaQuery(image=image)
    np.testing.assert_array_equal(part_payload(query.image, "image"), load_picture(folder / "a.png").image)


def test_a_picture_that_can_not_be_read(folder):
    with Image.open(folder / "a.png") as image:
        pass
    with pytest.raises(QueryError, match=r"^Expected a PIL image that can be read, got PngImageFile: .+ Is its file closed"):
        MediaQuery(image=image)
    data = (folder / "a.png").read_bytes()
    with pytest.raises(QueryError, match=r"^Expected a PIL image that can be read, got PngImageFile: "):
        MediaQuery(image=Image.open(io.BytesIO(data[: len(data) // 2])))


# -- recordings -----------------------------------------------------------------------------------------------------------


def recordings(path):
    return {
        "path": path,
        "bytes": path.read_bytes(),
        "open": io.BufferedReader(io.BytesIO(path.read_bytes())),
        "waveform": load_audio(path),
        "node": media(AudioMedia, path),
    }


@pytest.mark.parametrize("form", ["path", "bytes", "open", "waveform", "node"])
def test_a_recording_in_every_form(folder, form):
    (part,) = parts_of(MediaQuery(audio=recordings(folder / "a.wav")[form]))
    np.testing.assert_array_equal(part_payload(part.value, "audio").samples, load_audio(folder / "a.wav").samples)


def test_a_span_is_asked_with_its_own_sound(folder):
    (part,) = parts_of(MediaQuery(audio=media(AudioMedia, folder / "a.wav", start=0.25, end=0.75)))
    expected = load_audio(folder / "a.wav").samples[SAMPLE_RATE // 4 : SAMPLE_RATE * 3 // 4]
    np.testing.assert_array_equal(part_payload(part.value, "audio").samples, expected)


@pytest.mark.parametrize("rate", [8000, 44_100])
def test_a_waveform_of_another_rate_is_resampled(rate):
    sound = Waveform(np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32) / 2, rate)
    payload = part_payload(sound, "audio")
    expected = np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE) / 2
    assert payload.rate == SAMPLE_RATE
    assert payload.seconds == pytest.approx(1, abs=0.01)
    middle = slice(1000, 15_000)  # the ends ring
    np.testing.assert_allclose(payload.samples[middle], expected[middle], atol=0.01)


# -- meshes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["path", "bytes", "open", "mesh", "node"])
def test_a_mesh_in_every_form(folder, form):
    pytest.importorskip("open3d")
    path = folder / "a.obj"
    given = {
        "path": path,
        "bytes": path.read_bytes(),
        "open": io.BufferedReader(io.BytesIO(path.read_bytes())),
        "mesh": Mesh(CORNERS, FACES),
        "node": media(MeshMedia, path),
    }[form]
    (part,) = parts_of(MediaQuery(mesh=given))
    payload = part_payload(part.value, "mesh")
    np.testing.assert_array_equal(payload.vertices[payload.faces], CORNERS[FACES])
    views, expected = part_payload(part.value, "views"), file_payload(path, "views")
    np.testing.assert_array_equal(np.stack(views), np.stack(expected))


@pytest.mark.parametrize("suffix", ["glb", "gltf", "off", "ply", "stl", "stl_ascii", "obj"])
def test_bytes_of_every_format_of_meshes(folder, tmp_path, suffix):
    trimesh = pytest.importorskip("trimesh")
    made = trimesh.Trimesh(CORNERS, FACES, process=False)
    if suffix == "gltf":
        data = made.scene().export(file_type="gltf", embed_buffers=True)["model.gltf"]
    else:
        data = made.export(file_type=suffix)
    data = data.encode() if isinstance(data, str) else data
    ending = f".{suffix.partition('_')[0]}"
    assert mesh_suffix(data) == ending
    (part,) = parts_of(MediaQuery(mesh=data))
    payload = part_payload(part.value, "mesh")
    (tmp_path / f"a{ending}").write_bytes(data)
    expected = load_mesh(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(payload.vertices[payload.faces], expected.vertices[expected.faces])
    assert sorted(map(tuple, payload.vertices.tolist())) == sorted(map(tuple, CORNERS.tolist()))


def test_broken_bytes_of_a_mesh_are_told():
    (part,) = parts_of(MediaQuery(mesh=b"ply\nformat nonsense"))
    with pytest.raises(DecodeError, match=r"^mesh given as bytes\.ply "):
        part_payload(part.value, "mesh")


# -- refusals -------------------------------------------------------------------------------------------------------------

IMAGE_ARRAY = "Expected an array of (height, width), or (height, width, c) with c of 1, 3 or 4, uint8 or floats in [0, 1], for"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": 3}, "Expected a picture for image, got int. Give a path, bytes, a PIL image, an array of"),
        ({"image": [b"a", [b"b"]]}, "Expected a picture for image, got list."),
        ({"image": Waveform(np.zeros(4, np.float32))}, "Expected a picture for image, got Waveform."),
        (
            {"audio": Image.new("RGB", (2, 2))},
            "Expected a recording for audio, got Image. Give a path, bytes, a Waveform, or a",
        ),
        ({"mesh": object()}, "Expected a mesh for mesh, got object. Give a path, bytes, a Mesh(vertices, faces), or a node."),
        ({"image": b""}, "Expected a picture for image, got 0 bytes. A file that was read before has to be rewound."),
        ({"image": io.StringIO("text")}, "Expected a file opened for bytes for image, it gave str. Open it with 'rb'."),
        ({"image": "https://example.org/a.png"}, "Expected a file for image, got the address 'https://example.org/a.png'."),
        (
            {"audio": "s3://bucket/a.wav"},
            "Queries are not fetched for: fetch it (llama_index_mm.readers.fetch.fetch(url).data)",
        ),
        (
            {"image": "data:image/png;base64," + "A" * 99},
            "got the address 'data:image/png;base64,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ),
        ({"image": np.zeros((3, 8, 8), np.uint8)}, f"{IMAGE_ARRAY} image, got (3, 8, 8). Put the colours last."),
        ({"image": np.zeros(8, np.uint8)}, "got (8,)."),
        ({"image": np.zeros((0, 8), np.uint8)}, "got (0, 8)."),
        ({"image": np.zeros((2, 2), np.int64)}, "got int64. Convert it to uint8."),
        ({"image": np.full((2, 2), 255.0)}, "got float64 from 255 to 255. Scale it."),
        ({"image": np.full((2, 2), np.nan)}, "got float64 from nan to nan. Scale it."),
        ({"audio": np.zeros(8)}, "Expected a Waveform for audio, got an array of (8,). Give Waveform(samples, rate)."),
        ({"mesh": CORNERS}, "Expected a Mesh for mesh, got an array of (4, 3). Give Mesh(vertices, faces)."),
        (
            {"mesh": b"\x89PNG\r\n\x1a\n and so on"},
            "Expected GLB, PLY, OFF, STL or OBJ for mesh, got 18 bytes that look like none",
        ),
        (
            {"image": TextNode(id_="words", text="a")},
            "Expected a node with a picture for image, got words, which carries text. Med",
        ),
        (
            {"mesh": [NodeWithScore(node=ImageMedia.create("a.png", digest="0" * 64, id_="seen"))]},
            "got seen, which carries image.",
        ),
    ],
)
def test_what_is_no_such_part_is_refused_at_once(options, message):
    with pytest.raises(QueryError) as refused:
        MediaQuery(**options)
    assert message in str(refused.value)


def test_the_address_of_a_plain_query_is_refused_when_it_is_asked():
    with pytest.raises(QueryError, match=r"^Expected a file for image, got the address 'https://example.org/a.png'"):
        parts_of(QueryBundle("red", image_path="https://example.org/a.png"))


def test_a_node_of_another_package_has_no_file_to_encode():
    (part,) = parts_of(MediaQuery(image=ImageNode(id_="foreign", image_path="a.png")))
    with pytest.raises(EncodeError, match=r"^Node foreign \(ImageNode\) has no image to encode\.$"):
        part_payload(part.value, "image")


# -- all the way ----------------------------------------------------------------------------------------------------------


def test_forms_give_one_vector(folder):
    forms = list(pictures(folder / "a.png").values())
    made = plan(parts_of(MediaQuery(image=forms)), SPACES, ["image"], lambda *_: 1.0, None)
    assert [channel.part for channel in made] == ["image", *(f"image {at}" for at in range(2, len(forms) + 1))]
    expected = HashingEncoder("image").encode([file_payload(folder / "a.png", "image")])[0]
    for channel in made:
        np.testing.assert_array_equal(channel.vector, expected)


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    """Pictures, recordings and texts, each unlike the others."""
    home = tmp_path_factory.mktemp("index")
    nodes = [TextNode(id_=f"text {at}", text=words) for at, words in enumerate(["a bell", "a boat", "some bread"])]
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (8, 8), colour).save(path := home / f"{colour}.png")
        nodes.append(ImageMedia.create(path, digest=digest_file(path), text=f"{colour} wall", id_=colour))
    for hertz in (200, 800, 3200):
        tone = Waveform(np.sin(2 * np.pi * hertz * np.arange(8000) / SAMPLE_RATE).astype(np.float32))
        (path := home / f"{hertz}.wav").write_bytes(wav_bytes(tone))
        nodes.append(AudioMedia.create(path, digest=digest_file(path), text=f"tone {hertz}", id_=str(hertz)))
    with MediaStore(home / "index") as made:
        for space in SPACES:
            made.declare_space(space.name, space.dimension, space.fingerprint)
        made.add(encode_nodes(nodes, SPACES))
        yield made


def found(store, query, **options):
    return FusionRetriever(store, SPACES, similarity_top_k=3, **options).retrieve(query)


def names(results):
    return [result.node.node_id for result in results]


@pytest.mark.parametrize("name", ["red", "green", "blue", "200", "800", "3200"])
def test_more_like_what_was_found(store, name):
    (first, *_) = found(store, MediaQuery(name, modalities=["image" if name.isalpha() else "audio"]))
    assert first.node.node_id == name
    again = found(store, MediaQuery.like(first))
    assert names(again)[0] == name
    assert {result.node.modality for result in again} == {first.node.modality}
    reasons = [reason for reason in reasons_of(again[0].node) if reason.part in ("image", "audio")]
    assert [reason.raw for reason in reasons] == pytest.approx([1.0])


def test_like_this_and_not_like_that(store):
    (red,) = [result for result in found(store, MediaQuery("red", modalities=["image"])) if result.node.node_id == "red"]
    wall = MediaQuery("wall", modalities=["image"])
    assert set(names(found(store, wall))) == {"red", "green", "blue"}
    for negative in ("red", red, MediaQuery(image=Image.new("RGB", (4, 4), "red"))):
        assert names(found(store, dataclasses.replace(wall, negative=negative)))[-1] == "red"


def test_a_query_of_everything_is_not_changed_by_asking(store, folder):
    red = store.nodes(store.find(node_ids=["red"]).tolist()).popitem()[1]
    filters = MetadataFilters(filters=[MetadataFilter(key="year", value=1, operator=FilterOperator.NE)])
    images = [folder / "a.png", np.full((4, 4, 3), 9, np.uint8), Image.new("LA", (4, 4)), NodeWithScore(node=red, score=0.5)]
    sound = Waveform(np.sin(np.arange(4000, dtype=np.float32)), rate=8000)
    made = {
        "query_str": "a wall",
        "custom_embedding_strs": ["a wall", " red"],
        "embedding": [0.5, 0.5],
        "image": images,
        "audio": [sound, (folder / "a.wav").read_bytes()],
        "negative": [MediaQuery("boat", image=red), "bell"],
        "part_weights": {"image": 0.5, "speech": 2},
        "modalities": ["image", "audio", "text"],
        "spaces": ["text", "picture", "sound"],
        "filters": filters,
        "language": ["en"],
    }
    query = MediaQuery(**made)
    before, given = copy.deepcopy(query), copy.deepcopy(made)
    first = found(store, query, hear=lambda sound: "bell")
    assert len(first) == 3
    assert found(store, query, hear=lambda sound: "bell") == first
    assert query == before
    assert repr(query) == repr(before)
    assert all(same(made[name], given[name]) for name in made)


async def test_async_gives_the_same(store, folder):
    query = MediaQuery("wall", image=[folder / "a.png", np.zeros((4, 4))], negative="green", modalities=["image", "text"])
    assert await FusionRetriever(store, SPACES).aretrieve(query) == FusionRetriever(store, SPACES).retrieve(query)


def test_texts_of_a_bundle_are_asked_by_their_mean_and_its_embedding_is_not_looked_at(store):
    plain = found(store, QueryBundle("a boat"))
    assert found(store, QueryBundle("a boat", embedding=[1.0] * 32)) == plain
    assert found(store, QueryBundle("anything", custom_embedding_strs=["a boat"])) == plain
    assert found(store, QueryBundle("a boat", custom_embedding_strs=["a boat", "some bread"])) != plain
