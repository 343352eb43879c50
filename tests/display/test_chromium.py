"""Pages in a real browser: what is drawn, played and turned, and that nothing hostile runs and nothing is fetched."""

import base64
import io
import os
import shutil
from urllib.parse import urlsplit

import numpy as np
import pytest
from llama_index.core.base.response.schema import Response
from llama_index.core.schema import NodeWithScore, TextNode
from PIL import Image

from llama_index_mm import MediaQuery, MultiModalIndex, show
from llama_index_mm.demo import write_collection
from llama_index_mm.display import Section, write_page
from llama_index_mm.errors import MissingExtraError
from llama_index_mm.media import load_mesh, render_views
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia
from llama_index_mm.retrieval.reasons import ChannelReason, attach_reasons
from llama_index_mm.testing import tiny_preset

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, as chromium or google-chrome on the path")

DIGEST = "0" * 64
SPAN = (23.0, 30.5)
ATTACK = (
    "<img src=x onerror='window.hacked=1'></script><script>window.hacked=2</script>"
    "<svg onload=window.hacked=3>\"'`${window.hacked=4}"
)
NAME = "<img src=x onerror=window.hacked=1>\"onload='window.hacked=2'"  # a file name may not hold a slash


@pytest.fixture(scope="module")
def browsers():
    """With WebGL, and without."""
    options = ["--enable-unsafe-swiftshader"]  # WebGL where there is no graphics card
    options += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        made = {
            "webgl": started.chromium.launch(executable_path=CHROMIUM, args=options),
            "painted": started.chromium.launch(executable_path=CHROMIUM, args=[*options, "--disable-3d-apis"]),
        }
        yield made
        for one in made.values():
            one.close()


class Visit:
    """A page in the browser, with all that it said and asked for."""

    def __init__(self, browser, path, **options):
        self.context = browser.new_context(viewport={"width": 1100, "height": 900}, **options)
        self.context.set_default_timeout(10_000)
        self.page = self.context.new_page()
        self.errors, self.asked = [], []
        self.page.on("console", lambda told: self.errors.append(told.text) if told.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.blocked = []
        self.page.on("requestfailed", lambda request: self.blocked.append(request.failure))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def elsewhere(self):
        """What was asked for besides the page itself and what is in it."""
        return [url for url in self.asked[1:] if urlsplit(url).scheme not in ("data", "about")]

    def canvas(self, at=0):
        box = self.page.locator("[data-mesh]").nth(at)
        box.scroll_into_view_if_needed()
        self.page.locator(".turn.live canvas").nth(at).wait_for()
        return box.locator("canvas")

    def settle(self):
        """Wait until what was asked of the next frame is drawn."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def pixels(canvas):
    """What a canvas shows, ``(height, width, 4)``."""
    png = canvas.evaluate("canvas => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png.partition(",")[2]))).convert("RGBA"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    try:
        write_collection(folder)
    except MissingExtraError as error:
        pytest.skip(str(error))
    return folder


@pytest.fixture(scope="module")
def results(files, tmp_path_factory):
    """The page of searches in an index of the demo collection, and the span of a podcast."""
    folder = tmp_path_factory.mktemp("page")
    podcast = files / "audio" / "podcast-lighthouse-keepers.ogg"
    with MultiModalIndex.open(folder / "index", preset=tiny_preset(), create=True) as index:
        for name in ("pictures/coffee.png", "pictures/cat.png", "meshes/chair.obj", "meshes/mug.obj", "audio/church-bell.ogg"):
            index.ingest(files / name, num_workers=0)
        found = index.as_retriever(similarity_top_k=5).retrieve("chair, mug, coffee, cat, church bell")
        meshes = index.as_retriever(similarity_top_k=2).retrieve(MediaQuery("a chair", modalities=["mesh"]))
    span = AudioMedia.create(podcast, digest=DIGEST, start=SPAN[0], end=SPAN[1], seconds=62.0, text="whale oil", speech=True)
    sections = [
        Section("3D models", meshes),
        Section("everything", found),
        Section("When did it get a lamp?", [NodeWithScore(node=span, score=0.7)], answer="By 1986 [1]."),
    ]
    return write_page(folder / "results.html", sections, title="Results of the demo")


# -- real results -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["webgl", "painted"])
def test_results_are_shown_without_a_word_from_the_console(browsers, results, tmp_path, kind):
    with Visit(browsers[kind], results) as visit:
        first = visit.canvas(0)
        assert visit.page.evaluate("() => !!document.createElement('canvas').getContext('webgl')") is (kind == "webgl")
        drawn = pixels(first)
        assert 0.05 < (drawn[..., 3] > 0).mean() < 0.7  # a chair, and the ground that shines through
        assert len(np.unique(drawn[drawn[..., 3] == 255], axis=0)) > 3  # sides in different light
        assert first.locator("xpath=..").locator("img").is_hidden()
        pictures = visit.page.locator("article:has(.badge.image) img")
        assert pictures.count() == 2
        assert pictures.evaluate_all("all => all.every(one => one.complete && one.naturalWidth > 100)")
        whole = tmp_path / "results.png"
        visit.page.screenshot(path=whole, full_page=True)
        with Image.open(whole) as shot:
            assert shot.width == 1100
            assert len(shot.convert("RGB").getcolors(1 << 24)) > 1000
        assert visit.errors == []
        assert visit.elsewhere() == []


def test_a_player_holds_the_span_and_no_more(browsers, results):
    with Visit(browsers["webgl"], results) as visit:
        player = visit.page.locator("#s3 audio")
        player.evaluate("audio => audio.readyState || new Promise(done => audio.onloadedmetadata = done)")
        assert player.evaluate("audio => audio.duration") == pytest.approx(SPAN[1] - SPAN[0], abs=0.1)
        player.evaluate("audio => { audio.muted = true; return audio.play(); }")
        visit.page.wait_for_function("() => document.querySelector('#s3 audio').currentTime > 0")
        assert visit.errors == []


def test_a_citation_leads_to_its_card(browsers, results):
    with Visit(browsers["webgl"], results) as visit:
        visit.page.locator(".answer a").click()
        assert visit.page.locator(".card:target h3").inner_text() == "podcast-lighthouse-keepers.ogg"


@pytest.mark.parametrize("kind", ["webgl", "painted"])
def test_meshes_turn_zoom_and_come_back(browsers, results, kind):
    with Visit(browsers[kind], results) as visit:
        canvas = visit.canvas(0)
        home = pixels(canvas)
        box = canvas.bounding_box()
        middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

        visit.page.mouse.move(*middle)
        visit.page.mouse.down()
        visit.page.mouse.move(middle[0] + 70, middle[1] + 20, steps=4)
        visit.page.mouse.up()
        visit.settle()
        dragged = pixels(canvas)
        assert (dragged != home).any(-1).mean() > 0.03
        visit.page.mouse.move(*middle)
        visit.settle()
        assert np.array_equal(pixels(canvas), dragged)  # the button is up

        before = visit.page.evaluate("scrollY")
        visit.page.mouse.wheel(0, -400)  # it has the focus now
        visit.settle()
        assert (pixels(canvas)[..., 3] > 0).sum() > 1.2 * (dragged[..., 3] > 0).sum()
        assert visit.page.evaluate("scrollY") == before

        canvas.dblclick()
        visit.settle()
        assert np.array_equal(pixels(canvas), home)
        for keys in (("ArrowLeft", "ArrowRight"), ("ArrowDown", "ArrowUp"), ("+", "-")):
            visit.page.keyboard.press(keys[0])
            visit.settle()
            assert not np.array_equal(pixels(canvas), home)
            visit.page.keyboard.press(keys[1])
            visit.settle()
            assert np.abs(pixels(canvas).astype(int) - home).mean() < 0.5
        visit.page.keyboard.press("ArrowLeft")
        visit.page.keyboard.press("Home")
        visit.settle()
        assert np.array_equal(pixels(canvas), home)
        assert visit.errors == []


def test_the_wheel_scrolls_the_page_until_a_mesh_was_clicked(browsers, results):
    with Visit(browsers["webgl"], results) as visit:
        canvas = visit.canvas(0)
        home = pixels(canvas)
        box = canvas.bounding_box()
        visit.page.mouse.move(box["x"] + 50, box["y"] + 50)
        visit.page.mouse.wheel(0, 200)
        visit.page.wait_for_function("() => scrollY > 0")
        assert np.array_equal(pixels(canvas), home)


def test_a_finger_turns_a_mesh(browsers, results):
    with Visit(browsers["webgl"], results, has_touch=True) as visit:
        canvas = visit.canvas(0)
        home = pixels(canvas)
        box = canvas.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        session = visit.context.new_cdp_session(visit.page)
        session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        for step in (10, 30, 60):
            session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x + step, "y": y}]})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        visit.settle()
        assert (pixels(canvas) != home).any(-1).mean() > 0.03


def silhouette(mask):
    """What a mask covers, as 64 x 64 cells from its first to its last row and column, and width by height."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    small = Image.fromarray(cut.astype(np.uint8) * 255).resize((64, 64), Image.Resampling.BOX)
    return np.asarray(small) > 127, cut.shape[1] / cut.shape[0]


@pytest.mark.parametrize("kind", ["webgl", "painted"])
@pytest.mark.parametrize("name", ["chair.obj", "mug.obj"])
def test_the_first_view_is_that_of_the_rendered_sheet(browsers, results, files, kind, name):
    pytest.importorskip("open3d")
    with Visit(browsers[kind], results) as visit:
        at = [one.split(",")[0] for one in visit.page.locator("#s1 h3").all_inner_texts()].index(name)
        drawn, ratio = silhouette(pixels(visit.canvas(at))[..., 3] > 127)
    view = render_views(load_mesh(files / "meshes" / name), size=448)[0]
    rendered, expected = silhouette(np.asarray(view.convert("L")) < 255)
    assert ratio == pytest.approx(expected, rel=0.03)
    assert (drawn & rendered).sum() / (drawn | rendered).sum() > 0.9
    assert (drawn[:, ::-1] & rendered).sum() / (drawn[:, ::-1] | rendered).sum() < 0.85  # and not its mirror image


def test_without_scripts_the_picture_is_there(browsers, results, tmp_path):
    with Visit(browsers["webgl"], results, java_script_enabled=False) as visit:
        sheets = visit.page.locator("[data-mesh] img")
        assert sheets.count() == 4
        assert [sheet.is_visible() for sheet in sheets.all()] == [True] * 4
        assert visit.page.locator("canvas").count() == 0
        sheets.first.screenshot(path=tmp_path / "sheet.png")
        with Image.open(tmp_path / "sheet.png") as shot:
            assert len(shot.convert("L").getcolors()) > 20


# -- hostile results ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(make_once):
    nodes = [
        ImageMedia.create(make_once.picture(f"{NAME}.png"), digest=DIGEST, text=ATTACK, metadata={ATTACK: ATTACK}),
        AudioMedia.create(make_once.tone(f"{NAME}.wav"), digest=DIGEST, text=ATTACK, language=ATTACK, speech=True),
        MeshMedia.create(make_once.obj(f"{NAME}.obj"), digest=DIGEST, text=ATTACK, views=str(make_once.picture("views.png"))),
        TextNode(text=ATTACK, metadata={"file_path": f"javascript:window.hacked=5//{ATTACK}", "file_name": ATTACK}),
    ]
    for node in nodes:
        attach_reasons(node, [ChannelReason(ATTACK, ATTACK, 0.5, 0.5, 1.0, 0.5)])
    return [NodeWithScore(node=node, score=0.5) for node in nodes]


@pytest.mark.parametrize("framed", [False, True])
def test_nothing_hostile_runs(browsers, hostile, make_once, framed):
    path = make_once.path(f"hostile-{framed}.html")
    if framed:
        output = show(Response(f"{ATTACK} [3]", source_nodes=hostile), title=ATTACK)._repr_html_()
        make_once.text(path.name, f"<!DOCTYPE html><meta charset=utf-8><title>n</title>{output}")
    else:
        sections = [Section(ATTACK, hostile, make_once.picture(f"asked {NAME}.png"), f"{ATTACK} [3]", ATTACK)]
        write_page(path, sections, title=ATTACK)
    with Visit(browsers["webgl"], path) as visit:
        frame = visit.page.frames[-1]
        frame.locator(".answer a").click()
        frame.locator(".turn.live canvas").wait_for()
        for summary in frame.locator("summary").all():
            summary.click()
        visit.settle()
        assert frame.evaluate("() => window.hacked") is None
        assert visit.page.evaluate("() => window.hacked") is None
        assert frame.locator(".turn canvas").get_attribute("aria-label").startswith(f"3D model {NAME}.obj.")
        assert frame.locator("script").count() == 1
        assert frame.locator(".card:target .badge.mesh").count() == 1
        assert visit.errors == []
        assert visit.elsewhere() == []


def test_the_policy_stops_a_script_that_got_in(browsers, hostile, make_once):
    """The second wall: were something not escaped, it still would not run."""
    page = write_page(make_once.path("whole.html"), [Section("q", hostile)]).read_text(encoding="utf-8")
    inserted = (
        "<script>window.hacked=1</script><img src=x onerror='window.hacked=2'><img src='http://127.0.0.1:9/x.png'></body>"
    )
    with Visit(browsers["webgl"], make_once.text("broken.html", page.replace("</body>", inserted))) as visit:
        visit.canvas(0)
        assert visit.page.evaluate("() => window.hacked") is None
        assert sum("Content Security Policy" in error for error in visit.errors) >= 3
        assert visit.blocked == ["csp", "csp"]


def test_a_frame_keeps_its_styles_and_can_not_reach_the_notebook(browsers, hostile, make_once):
    output = show(hostile, title="q")._repr_html_()
    path = make_once.text("notebook.html", f"<!DOCTYPE html><meta charset=utf-8><h2 id=outer>mine</h2>{output}")
    with Visit(browsers["webgl"], path) as visit:
        frame = visit.page.frames[-1]
        frame.locator(".turn.live canvas").wait_for()
        outer = visit.page.locator("#outer").evaluate("one => getComputedStyle(one).fontSize")
        inner = frame.locator("h2").evaluate("one => getComputedStyle(one).fontSize")
        assert (outer, inner) == ("24px", "20.8px")
        reached = "() => { try { return parent.document.title; } catch (error) { return error.name; } }"
        assert frame.evaluate(reached) == "SecurityError"
