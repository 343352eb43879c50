import json

import pytest

from llama_index_mm.errors import DecodeError, QueryError
from llama_index_mm.evaluation import Judged, Judgments, load_judgments
from llama_index_mm.evaluation.tables import RowProblem
from llama_index_mm.retrieval import MediaQuery


def problems(told):
    return [str(problem) for problem in told.problems]


def test_every_column(make):
    sketch = make.picture("sketches/table.png")
    path = make.text(
        "judgments.csv",
        "query,image,modalities,spaces,relevant,grade,exclude,kind,language\n"
        '"a dog, on the beach",,image,,beach/1001.jpg,,,,en\n'
        "ein Stuhl,,mesh,,chair_1.off,2,old.off,,de\n"
        "a storm,,,text,storm.txt,,,weather,\n"
        "ein Stuhl,,mesh,,chair_2.off | chair_3.off,0.5,,,de\n"
        ",sketches/table.png,image | mesh,,table_1.off|table_2.off,,,,\n",
    )
    told = load_judgments(path)
    assert told == Judgments(
        (
            Judged(MediaQuery("a dog, on the beach", modalities=("image",)), {"1001.jpg": 1.0}, frozenset(), language="en"),
            Judged(
                MediaQuery("ein Stuhl", modalities=("mesh",)),
                {"chair_1.off": 2.0, "chair_2.off": 0.5, "chair_3.off": 0.5},
                frozenset({"old.off"}),
                language="de",
            ),
            Judged(MediaQuery("a storm", spaces=("text",)), {"storm.txt": 1.0}, frozenset(), kind="weather"),
            Judged(
                MediaQuery(image=sketch, modalities=("image", "mesh")),
                {"table_1.off": 1.0, "table_2.off": 1.0},
                frozenset({"table.png"}),
            ),
        ),
        (),
        (),
        "file_name",
    )
    assert [one.kind for one in told.queries] == [
        "text -> image (en)",
        "text -> mesh (de)",
        "weather",
        "image -> image+mesh",
    ]


def test_lines_of_json_say_the_same(make):
    make.picture("x.png")
    table = make.text("a.csv", "query,image,modalities,relevant,grade\nboat,x.png,image|mesh,a|b,2\nboat,x.png,image|mesh,c,\n")
    lines = [
        {"query": "boat", "image": "x.png", "modalities": ["image", "mesh"], "relevant": {"a": 2, "b": 2}},
        {"query": "boat", "image": "x.png", "modalities": "image|mesh", "relevant": ["c"], "grade": None},
    ]
    path = make.text("a.jsonl", "\n\n".join(json.dumps(line) for line in lines))
    assert load_judgments(path) == load_judgments(table)
    assert load_judgments(path).queries[0].grades == {"a": 2.0, "b": 2.0, "c": 1.0}


def test_the_other_ways_to_call_items(make):
    make.picture("x.png")
    path = make.text("a.csv", "image,relevant,exclude\nx.png,sub/b.png,c.png\n")
    home = path.parent.resolve()
    (one,) = load_judgments(path, by="file_path").queries
    assert (one.grades, one.excluded) == ({f"{home}/sub/b.png": 1.0}, {f"{home}/c.png", f"{home}/x.png"})
    (one,) = load_judgments(path, by="node_id").queries
    assert (one.grades, one.excluded) == ({"sub/b.png": 1.0}, {"c.png"})
    with pytest.raises(QueryError, match=r"Unknown identity 'name'; .*file_name, file_path"):
        load_judgments(path, by="name")


def test_a_file_that_is_asked_with_may_be_relevant(make):
    make.picture("x.png")
    path = make.text("a.csv", "image,relevant\nx.png,x.png|y.png\n")
    (one,) = load_judgments(path).queries
    assert (set(one.grades), one.excluded) == ({"x.png", "y.png"}, frozenset())


def test_bad_rows_are_told_and_the_rest_goes_on(make):
    path = make.text(
        "a.csv",
        "query,image,modalities,relevant,grade\n"
        "good,,,a.txt,\n"
        ",,,a.txt,\n"
        "q,none.png,,a.txt,\n"
        "q,,smell,a.txt,\n"
        "\n"
        "q,,, | ,\n"
        "q,,,a.txt,high\n"
        "q,,,a.txt,-1\n"
        "q,,,a.txt,inf\n"
        "one, two,,,a.txt,\n"
        "short,,\n"
        ",,,,\n"
        "zero,,,a.txt,0\n"
        "twice,,,a.txt,1\n"
        "twice,,,b.txt|a.txt,2\n"
        f"q,{'x' * 400}.png,,a.txt,\n"
        "good,,,b.txt,\n",
    )
    told = load_judgments(path)
    assert [(one.name, dict(one.grades)) for one in told.queries] == [
        ("good", {"a.txt": 1, "b.txt": 1}),
        ("twice", {"a.txt": 1}),
    ]
    there = problems(told)
    assert there.pop(-1) == f"row 17, column image: There is no file {path.parent / ('x' * 400)}.png."
    assert there == [
        "row 3, column query: Nothing is asked: give words, a picture, a recording or a mesh.",
        f"row 4, column image: There is no file {path.parent / 'none.png'}.",
        "row 5, column modalities: Unknown modality 'smell'; there are: text, image, audio, mesh.",
        "row 7, column relevant: Nothing is given that should be found.",
        "row 8, column grade: Expected a number of at least 0, got 'high'.",
        "row 9, column grade: Expected a number of at least 0, got '-1'.",
        "row 10, column grade: Expected a number of at least 0, got 'inf'.",
        "row 11: Expected 5 cells, got 6. Cells with commas need quotation marks.",
        "row 12: Expected 5 cells, got 3. Cells with commas need quotation marks.",
        "row 14, column relevant: Expected at least one relevant item, got none: such a query can't be judged. Leave it out.",
        "row 16, column grade: a.txt has grade 1 in an earlier row of this query.",
    ]


def test_bad_lines_of_json(make):
    lines = [
        '{"query": "q", "relevant": ["a"]}',
        "{",
        "[1]",
        '{"query": 3, "relevant": "a"}',
        '{"query": "q", "relevant": [1]}',
    ]
    lines += ['{"query": "r", "relevant": {"a": true}}', '{"query": "s", "relevant": "a", "note": 1}', "[" * 100_000]
    told = load_judgments(make.text("a.jsonl", "\n".join(lines)))
    assert [one.name for one in told.queries] == ["q", "s"]
    assert told.ignored == ("note",)
    assert [(one.row, one.column) for one in told.problems] == [
        (2, ""),
        (3, ""),
        (4, "query"),
        (5, "relevant"),
        (6, "relevant"),
        (8, ""),
    ]
    assert told.problems[1:5] == (
        RowProblem(3, "", "Expected an object, got list."),
        RowProblem(4, "query", "Expected a text, got 3."),
        RowProblem(5, "relevant", "Expected texts, got 1."),
        RowProblem(6, "relevant", "Expected a number of at least 0, got True."),
    )


def test_other_columns_are_told(make):
    told = load_judgments(make.text("a.csv", "query, relevant,modality,,\nq,a,image,,\n"))
    assert (told.ignored, len(told.queries)) == (("modality", "", ""), 1)


def test_a_table_from_a_spreadsheet(make):
    """With a byte order mark, Windows' line ends, and a line break within a cell."""
    path = make.bytes("a.csv", '\ufeffquery,relevant\r\n"ein\r\nStuhl",größe.off\r\n,b\r\n'.encode())
    told = load_judgments(path)
    assert [(one.name, set(one.grades)) for one in told.queries] == [("ein Stuhl", {"größe.off"})]
    assert [one.row for one in told.problems] == [3]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "got nothing"),
        ("a.csv", b"query,relevent\nq,a\n", "got query, relevent"),
        ("a.csv", b"relevant,grade\na,1\n", "one of 'query', 'image', 'audio', 'mesh'"),
        ("a.csv", b"query,relevant,query\n", "got 'query' twice"),
        ("a.csv", b"query;relevant\nq;a\n", "Its cells have semicolons between: save it with commas"),
        ("a.csv", b"query\trelevant\nq\ta\n", "Its cells have tabs between: save it with commas"),
        ("a.csv", b"query,relevant\n\xff\xfe,a\n", "no CSV in UTF-8: invalid start byte in line 2"),
        ("a.csv", b"query,relevant\n" + b"q,a\n" * 9000 + b"gr\xf6\xdfe,a\n", "in line 9002. Save it as UTF-8"),
        ("a.csv", b'query,relevant\n"q,a\n', "no CSV: unexpected end of data, in line 2"),
        ("a.jsonl", b'{"query": "\xff"}', "no JSON Lines in UTF-8"),
    ],
)
def test_what_is_no_table(make, name, data, message):
    with pytest.raises(DecodeError, match=message):
        load_judgments(make.bytes(name, data))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_judgments(tmp_path / "none.csv")


def test_line_ends_of_any_system(make):
    for end in (b"\n", b"\r\n", b"\r"):
        rows = make.bytes("a.csv", end.join([b"query,relevant", b"q,a.png", b"r,b.png", b""]))
        lines = make.bytes(
            "a.jsonl", end.join([b'{"query": "q", "relevant": ["a.png"]}', b'{"query": "r", "relevant": "b.png"}'])
        )
        for path in (rows, lines):
            assert [(one.name, list(one.grades)) for one in load_judgments(path).queries] == [
                ("q", ["a.png"]),
                ("r", ["b.png"]),
            ]


def test_lines_that_say_two_things_or_hold_half_a_character(make):
    told = load_judgments(
        make.bytes(
            "a.jsonl",
            b'{"query": "q", "relevant": {"x/b.png": 2, "y/b.png": 1}}\n'
            b'{"query": "\\ud800", "relevant": "b.png"}\n'
            b'{"query": "q", "relevant": ["b\\udfff.png"]}\n'
            b'{"query": "q", "relevant": {"b\\ud83d.png": 1}}\n'
            b'{"query": "q", "relevant": {"x/b.png": 2, "y/b.png": 2}}\n'
            b'{"query": "\\ud83d\\ude00", "relevant": "b.png"}\n',
        )
    )
    assert [str(one) for one in told.problems] == [
        "row 1, column relevant: b.png is given with the grades 2 and 1.",
        "row 2, column query: Expected whole characters, got '\\ud800'.",
        "row 3, column relevant: Expected whole characters, got 'b\\udfff.png'.",
        "row 4, column relevant: Expected whole characters, got 'b\\ud83d.png'.",
    ]
    assert [(one.name, one.grades) for one in told.queries] == [("q", {"b.png": 2.0}), ("\U0001f600", {"b.png": 1.0})]
