import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.response.schema import AsyncStreamingResponse, PydanticResponse, Response, StreamingResponse
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.schema import NodeWithScore, TextNode

from llama_index_mm.answers import NumberSources, check_citations, with_checked_citations
from llama_index_mm.errors import QueryError


def sources(count=4):
    return NumberSources().postprocess_nodes([NodeWithScore(node=TextNode(text=f"t{at}"), score=0.5) for at in range(count)])


@pytest.mark.parametrize(
    ("text", "cited", "invented", "uncited"),
    [
        ("At noon [1].", (1,), (), (2, 3, 4)),
        ("A [2][1], b [1, 3] and c[7].", (2, 1, 3), (7,), (4,)),
        ("All of it [1-3], and [3–5].", (1, 2, 3, 4), (5,), ()),
        ("So [Source 2] and [sources 1, 4] and 【3†talk.ogg】.", (2, 1, 4, 3), (), ()),
        ("[0] or [9; 1 & 2 and 8]", (1, 2), (0, 9, 8), (3, 4)),
        ("A link [1](http://a.b), a[i], [^2], [x 3], [2024 report]", (), (), (1, 2, 3, 4)),
        ("[12345] [ 2 ]", (2,), (), (1, 3, 4)),
        ("[4-2]", (4, 2), (), (1, 3)),
        ("[1, 2, and 7], 【1、3】, ［4］ and [2，3]", (1, 2, 3, 4), (7,), ()),
        ("[1†rock and roll-2.ogg, 2†b–3†c] [1†a\nb]", (1, 2, 3), (), (4,)),
        ("`a[7]` and\n```python\nb[8] = c[9]\n```\n[1], but ` [3] and\n ``d[2]", (1, 3, 2), (), (4,)),
        ("```\na[7] never ends", (), (), (1, 2, 3, 4)),
        ("", (), (), (1, 2, 3, 4)),
    ],
)
def test_numbers(text, cited, invented, uncited):
    check = check_citations(Response(text, source_nodes=sources()))
    assert (check.text, check.cited, check.invented, check.uncited) == (text, cited, invented, uncited)
    assert check.ok == bool(cited and not invented)


CASES = [
    ("At noon [1].", "At noon [1].", "At noon [1]."),
    ("At noon [7].", "At noon.", "At noon [7: no such source]."),
    ("A [1, 7] b", "A [1] b", "A [1] [7: no such source] b"),
    ("[9]", "", "[9: no such source]"),
    ("x [7] [2] [8-9]\ny", "x [2]\ny", "x [7: no such source] [2] [8, 9: no such source]\ny"),
    ("`a[7]` [7] ```\nb[8]", "`a[7]` ```\nb[8]", "`a[7]` [7: no such source] ```\nb[8]"),
    ("so [1, 2, and 9]", "so [1, 2]", "so [1, 2] [9: no such source]"),
    ("see [7](http://a.b) [", "see [7](http://a.b) [", "see [7](http://a.b) ["),
]


@pytest.mark.parametrize(("text", "stripped", "flagged"), CASES)
def test_mending(text, stripped, flagged):
    response = Response(text, source_nodes=sources())
    assert check_citations(response).mended("strip") == stripped
    assert check_citations(response).mended("flag") == flagged
    assert with_checked_citations(response, "strip").response == stripped
    assert with_checked_citations(response, "flag").response == flagged
    assert with_checked_citations(response, "keep") is response
    assert response.response == text


@given(
    st.lists(
        st.sampled_from(["[7]", "[1", "]", "(", " ", "7", ", 2", "[", "a", "\n", "【3】", "[2-9]", "word", "`", "```"]),
        max_size=14,
    ),
    st.sampled_from(["flag", "strip"]),
)
def test_streams_are_mended_as_the_whole_is(pieces, how):
    nodes = sources()
    whole = with_checked_citations(Response("".join(pieces), source_nodes=nodes), how).response
    stream = with_checked_citations(StreamingResponse(iter(pieces), source_nodes=nodes), how)
    assert "".join(stream.response_gen) == whole

    async def flow():
        for piece in pieces:
            yield piece

    async def read():
        response = with_checked_citations(AsyncStreamingResponse(flow(), source_nodes=nodes), how)
        return "".join([piece async for piece in response.response_gen])

    assert asyncio.run(read()) == whole


def test_a_stream_waits_for_what_may_be_a_citation_only():
    pieces = iter(["So it ", "is [", "7", "] and", " on"])
    given = with_checked_citations(StreamingResponse(pieces, source_nodes=sources()), "strip").response_gen
    assert list(given) == ["So it", " is", " and", " on"]


def test_sources_without_numbers_count_by_their_place():
    nodes = [NodeWithScore(node=TextNode(text="a"), score=1.0)] * 2
    assert check_citations(Response("[2] [3]", source_nodes=nodes)).invented == (3,)


def test_other_responses():
    class Time(BaseModel):
        time: str
        hours: list[int]
        said: dict[str, list[str]]

    structured = PydanticResponse(Time(time="[9]", hours=[7, 8], said={"a": ["noon [1]"]}), source_nodes=sources())
    assert with_checked_citations(structured, "strip") is structured
    check = check_citations(structured)
    assert (check.cited, check.invented, check.uncited) == ((1,), (9,), (2, 3, 4))
    assert check.mended("strip") == '{"time":"","hours":[7,8],"said":{"a":["noon [1]"]}}'

    async def flow():
        yield "x"

    with pytest.raises(QueryError, match=r"await response\.get_response"):
        check_citations(AsyncStreamingResponse(flow(), source_nodes=[]))


@pytest.mark.parametrize("text", ["[" + "1†a," * 5000 + "1", "[" * 20_000, " " * 20_000, "`a" * 10_000, "``` ``` " * 3000])
def test_long_answers_take_no_time(text):
    began = time.process_time()
    response = Response(text, source_nodes=sources())
    assert check_citations(response).invented == ()
    assert with_checked_citations(response, "strip").response == text
    pieces = (text[at : at + 50] for at in range(0, len(text), 50))
    stream = with_checked_citations(StreamingResponse(pieces, source_nodes=sources()), "strip")
    assert "".join(stream.response_gen) == text
    assert time.process_time() - began < 2
