"""The web page in a real browser: searching, dropping files, playing, turning, asking. Nothing hostile runs."""

import base64
import importlib.util
import io
import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from PIL import Image

if any(importlib.util.find_spec(name) is None for name in ("playwright", "fastapi", "uvicorn")):
    pytest.skip("needs playwright, fastapi and uvicorn", allow_module_level=True)

from playwright.sync_api import sync_playwright
from test_web import TOKEN, Scripted, png, serving, sound

from llama_index_mm import MultiModalIndex
from llama_index_mm.demo import write_collection
from llama_index_mm.errors import MissingExtraError
from llama_index_mm.server.web_limits import WebLimits
from llama_index_mm.testing import tiny_preset

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, as chromium or google-chrome on the path")

ATTACK = "<img src=x onerror=window.hacked=1></script><script>window.hacked=2</script>[1]<svg onload=window.hacked=3>'\"`${1}"
NAME = "<img src=x onerror=window.hacked=1>\"onload='window.hacked=2'.png"  # a file name may not hold a slash
SHOWN = ("pictures/cat.png", "pictures/coffee.png", "audio/church-bell.ogg", "meshes/chair.obj", "meshes/mug.obj")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    files = tmp_path_factory.mktemp("demo")
    try:
        write_collection(files)
    except MissingExtraError as error:
        pytest.skip(str(error))
    hostile = files / "pictures" / NAME
    hostile.write_bytes(png(30, 20, (0, 90, 30)))
    with MultiModalIndex.open(files / "index", preset=tiny_preset(), create=True) as made:
        made.ingest([*(files / name for name in SHOWN), hostile], num_workers=0)
        made.insert_nodes([TextNode(text=f"hostile words {ATTACK}", metadata={"file_name": ATTACK, "page_label": ATTACK})])
        yield made


@pytest.fixture(scope="module")
def llm():
    return Scripted(words=("It is ", "a <b>mug</b> ", "[1] ", "or [1, 2] ", "or [77].", ATTACK), pause=0.03)


@pytest.fixture(scope="module")
def web(index, llm):
    with serving(index, llm=llm, limits=WebLimits(answers=1)) as client:
        yield client


@pytest.fixture(scope="module")
def browser():
    options = ["--enable-unsafe-swiftshader", "--autoplay-policy=no-user-gesture-required"]
    options += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield made
        made.close()


class Visit:
    """A page, with all that it said and asked for."""

    def __init__(self, browser, address, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        self.context.set_default_timeout(20_000)
        self.page = self.context.new_page()
        self.host = urlsplit(str(address)).netloc
        self.errors, self.asked = [], []
        self.page.on("console", lambda told: self.errors.append(told.text) if told.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(str(address))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def search(self, words):
        self.page.get_by_label("What to look for, or a question").fill(words)
        self.page.keyboard.press("Enter")
        self.page.locator("#told", has_text=re.compile(r"\d results? in \d")).wait_for()

    def names(self):
        return self.page.locator(".card h3").all_inner_texts()

    def quiet(self):
        """No error was told, nothing was asked for elsewhere, and no hostile text ran."""
        assert self.errors == []
        assert {urlsplit(url).netloc for url in self.asked} == {self.host}
        assert self.page.evaluate("() => window.hacked") is None


@pytest.fixture
def visit(browser, web):
    with Visit(browser, web.base_url) as opened:
        yield opened


def pixels(canvas):
    data = canvas.evaluate("canvas => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGBA"))


def drop(page, name, data, kind="application/octet-stream"):
    """Drop a file on the page, as a hand would."""
    page.evaluate(
        """([name, data, kind]) => {
            const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], name, { type: kind }));
            for (const event of ["dragenter", "dragover", "drop"])
                document.getElementById("field").dispatchEvent(
                    new DragEvent(event, { dataTransfer: carried, bubbles: true, cancelable: true }));
        }""",
        [name, base64.b64encode(data).decode(), kind],
    )


def test_words_find_cards(visit, tmp_path):
    assert visit.page.locator("#holds").inner_text() == "3 images · 1 recording · 2 meshes · 1 text"
    visit.search("a cat")
    assert visit.names()[0] == "cat.png"
    assert len(visit.names()) == 7
    assert visit.page.locator("#told").inner_text().startswith("7 results in ")
    first = visit.page.locator(".card").first
    picture = first.get_by_role("img", name="Picture cat.png")
    picture.evaluate("image => image.complete || new Promise(done => image.onload = done)")
    assert picture.evaluate("image => image.naturalWidth") > 400
    first.get_by_text("Why it was found").click()
    shares = [float(one) for one in first.locator("tbody td:nth-child(3)").all_inner_texts()]
    assert sum(shares) == pytest.approx(float(first.locator(".score span").last.inner_text()), abs=0.02)
    visit.page.screenshot(path=tmp_path / "cards.png")
    with Image.open(tmp_path / "cards.png") as shot:
        assert shot.size == (1200, 900)
        assert len(shot.convert("RGB").getcolors(1 << 24)) > 1000
    visit.quiet()


def test_kinds_and_counts_narrow_the_search(visit):
    visit.search("a cat")
    visit.page.get_by_label("Meshes").check()
    visit.page.locator(".card").nth(2).wait_for(state="detached")
    assert sorted(visit.names()) == ["chair.obj", "mug.obj"]
    visit.page.get_by_label("Meshes").uncheck()
    visit.page.locator(".card").nth(6).wait_for()
    visit.page.get_by_role("combobox", name="Results").select_option("6")
    visit.page.locator(".card").nth(6).wait_for(state="detached")
    assert len(visit.names()) == 6
    visit.quiet()


def test_a_dropped_picture_is_searched_with(visit, index):
    path = next(one.path for one in index.store.sources() if one.path.endswith("coffee.png"))
    drop(visit.page, "my cup.png", Path(path).read_bytes(), "image/png")
    part = visit.page.locator(".part.image")
    part.get_by_text("600 × 400 pixels").wait_for()
    visit.page.locator(".card").first.wait_for()
    assert visit.names()[0] == "coffee.png"
    part.get_by_role("button", name="Remove my cup.png").click()
    assert part.count() == 0
    visit.quiet()


def test_added_sounds_and_meshes_are_searched_with(visit):
    visit.page.locator("#file").set_input_files([{"name": "hum.wav", "mimeType": "audio/wav", "buffer": sound(2.0)}])
    visit.page.locator(".part.audio").get_by_text("0:02").wait_for()
    visit.page.locator(".card").first.wait_for()
    assert visit.names() == ["church-bell.ogg"]
    visit.page.get_by_role("button", name="Remove hum.wav").click()
    cube = b"OFF\n4 4 6\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 2 1\n3 0 1 3\n3 1 2 3\n3 0 3 2\n"
    drop(visit.page, "pyramid.off", cube)
    visit.page.locator(".part.mesh").get_by_text("4 faces").wait_for()
    visit.page.locator(".badge.mesh").nth(1).wait_for()
    assert sorted(visit.names()) == ["chair.obj", "mug.obj"]
    visit.quiet()


def test_broken_and_hostile_files_are_told(visit):
    drop(visit.page, NAME, b"no picture")
    told = visit.page.locator("#told.wrong")
    told.wait_for()
    assert told.inner_text().startswith(NAME + " can't be decoded as a picture")
    assert visit.page.locator(".part").count() == 0
    told_before = told.inner_text()
    drop(visit.page, "notes.txt", b"words")
    visit.page.wait_for_function("before => document.getElementById('told').innerText !== before", arg=told_before)
    assert "notes.txt is a text" in told.inner_text()
    visit.errors = [error for error in visit.errors if "422" not in error and "415" not in error]  # the browser counts them
    visit.quiet()


def test_a_recording_is_played(visit):
    visit.search("church bell")
    player = visit.page.locator(".card audio")
    assert player.get_attribute("aria-label").startswith("church-bell.ogg, 0:00–")
    player.evaluate("audio => audio.play()")
    visit.page.wait_for_function("() => document.querySelector('.card audio').currentTime > 0.2")
    assert player.evaluate("audio => audio.error") is None
    player.evaluate("audio => { audio.pause(); audio.currentTime = audio.duration - 1; }")
    player.evaluate("audio => audio.seeking && new Promise(done => audio.onseeked = done)")
    assert player.evaluate("audio => audio.duration - audio.currentTime") == pytest.approx(1.0, abs=0.1)
    visit.quiet()


def test_a_mesh_is_turned_by_hand_and_by_keys(visit):
    for _ in range(2):  # a second search puts the cards there anew
        visit.search("a mug")
        canvas = visit.page.locator(".turn.live canvas").first
        canvas.wait_for()
        canvas.scroll_into_view_if_needed()
        assert visit.page.locator(".turn").first.locator("canvas").count() == 1
        before = pixels(canvas)
        assert 0.05 < (before[..., 3] > 0).mean() < 0.8
        box = canvas.bounding_box()
        visit.page.mouse.move(box["x"] + 90, box["y"] + 90)
        visit.page.mouse.down()
        visit.page.mouse.move(box["x"] + 190, box["y"] + 120, steps=4)
        visit.page.mouse.up()
        visit.page.wait_for_timeout(200)
        turned = pixels(canvas)
        assert (turned != before).any(axis=2).mean() > 0.02
        canvas.press("ArrowLeft")
        visit.page.wait_for_timeout(200)
        assert (pixels(canvas) != turned).any()
        canvas.press("Home")
        visit.page.wait_for_timeout(200)
        assert (pixels(canvas) == before).all()
    visit.quiet()


def test_an_answer_streams_and_its_numbers_lead_to_cards(visit, llm, tmp_path):
    visit.page.get_by_label("What to look for, or a question").fill("What is a mug?")
    visit.page.keyboard.press("Control+Enter")
    answer = visit.page.get_by_role("region", name="Answer")
    answer.get_by_text("It is").wait_for()
    visit.page.locator("#told", has_text="Answered in").wait_for()
    said = answer.locator(".said")
    assert said.inner_text().startswith("It is a <b>mug</b> [1] or [1, 2] or.<img src=x onerror")
    cited = said.get_by_role("link")
    assert cited.all_inner_texts() == ["1", "1", "2", "1"]
    cited.nth(2).click()
    assert visit.page.evaluate("() => document.activeElement.id") == "source-2"
    assert visit.page.locator(".card").count() == 4
    assert answer.locator(".sources li").count() == 4
    assert answer.locator(".said").get_attribute("aria-busy") == "false"
    visit.page.screenshot(path=tmp_path / "answer.png")
    visit.quiet()


def test_an_answer_is_stopped(browser, index):
    slow = Scripted(words=("word ",) * 2000, pause=0.02)
    with serving(index, llm=slow) as web, Visit(browser, web.base_url) as visit:
        visit.page.get_by_label("What to look for, or a question").fill("a mug")
        visit.page.get_by_role("button", name="Ask").click()
        visit.page.get_by_role("region", name="Answer").get_by_text("word word").wait_for()
        visit.page.get_by_role("button", name="Stop").click()
        visit.page.locator("#told", has_text="Stopped").wait_for()
        assert slow._closed.wait(5)
        assert len(slow._said) < 2000
        visit.quiet()


def test_more_like_this(visit):
    visit.search("a mug")
    visit.page.get_by_role("button", name="More like mug.obj").click()
    visit.page.locator(".part", has_text="more like this").wait_for()
    visit.page.wait_for_function("() => [...document.querySelectorAll('.badge')].every(one => one.textContent === 'Mesh')")
    assert visit.names() == ["mug.obj", "chair.obj"]
    visit.quiet()


def test_hostile_texts_are_only_texts(visit):
    visit.search(ATTACK)
    names = visit.names()
    assert NAME in names
    assert ATTACK in names
    visit.page.get_by_text("hostile words").wait_for()
    assert visit.page.locator("main script, main svg[onload], .card img[src='x']").count() == 0
    visit.page.get_by_label("What to look for, or a question").fill(f"hostile words {ATTACK}")
    visit.page.get_by_role("button", name="Ask").click()
    visit.page.locator("#told", has_text="Answered in").wait_for()
    assert ATTACK in visit.page.locator(".said").inner_text()
    visit.page.wait_for_timeout(200)
    visit.quiet()


def test_the_policy_holds_even_if_markup_got_in(visit):
    visit.page.evaluate(
        """() => {
            document.body.insertAdjacentHTML("beforeend", '<img src="/nowhere" onerror="window.hacked=1">');
            const script = document.createElement("script");
            script.textContent = "window.hacked = 2";
            document.body.append(script);
        }"""
    )
    visit.page.wait_for_timeout(300)
    assert visit.page.evaluate("() => window.hacked") is None
    assert any("Content Security Policy" in error for error in visit.errors)


def test_everything_has_a_name_and_is_reached_by_keys(visit):
    visit.search("a mug")
    visit.page.locator(".turn.live canvas").first.wait_for()
    unnamed = visit.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, audio, canvas, img")].filter((one) =>
            !(one.getAttribute("aria-label") || one.alt !== undefined && one.hasAttribute("alt") || one.textContent.trim()
              || (one.labels && one.labels.length))).map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    visit.page.get_by_label("What to look for, or a question").focus()
    reached = []
    for _ in range(9):
        visit.page.keyboard.press("Tab")
        reached.append(visit.page.evaluate("() => document.activeElement.id || document.activeElement.value || ''"))
    assert reached[:8] == ["add", "ask", "search", "image", "audio", "mesh", "text", "k"]
    visit.page.locator("body").press("/")
    assert visit.page.evaluate("() => document.activeElement.id") == "words"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser, web, scheme, tmp_path):
    with Visit(browser, web.base_url, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True) as visit:
        visit.search("a mug")
        visit.page.locator(".card").first.wait_for()
        assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= 360
        low = visit.page.evaluate(
            """() => [...document.querySelectorAll("button, select, fieldset label")].filter((one) => one.offsetParent)
                .map((one) => one.getBoundingClientRect().height).filter((height) => height < 24)"""
        )
        assert low == []  # WCAG 2.2, target size
        visit.page.screenshot(path=tmp_path / f"phone-{scheme}.png")
        visit.quiet()


def test_a_visit_with_the_token(browser, index):
    with serving(index, token=TOKEN) as web, Visit(browser, f"{web.base_url}?token={TOKEN}") as visit:
        assert visit.page.url == f"{web.base_url}/"
        visit.search("a cat")
        assert visit.names()[0] == "cat.png"
        assert visit.page.evaluate("() => document.cookie") == ""
        visit.quiet()
