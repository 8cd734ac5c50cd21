"""The report's page in a browser: its script runs, filters, reads curves, and asks for no more."""

import json
from pathlib import Path

import pytest

from r1jax import report
from r1jax.evaluation.completions import reflective_words
from r1jax.jsonl import JsonLines
from r1jax.report.svg import number
from support.chromium import CHROMIUM, Chromium

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome")

HOSTILE = (
    "</script><script>window.hacked=1</script><img src=http://evil.example/x.png onerror=hacked=1>"
    "<!-- \x00\x1b[31m \u202egnp.exe \u2028 \ud800"
)
# One row for each combination; every third has a Chinese question.
ROWS = [
    {
        "step": step,
        "round": step,
        "id": f"{kind}-{i:02d}",
        "sample": 0,
        "kind": kind,
        "language": "zh" if i == 2 else "en",
        "problem": f"用数字得到 {10 + i}" if i == 2 else f"make {10 + i}",
        "gold": str(10 + i),
        "completion": HOSTILE
        if (step, kind, i) == (0, "chain", 0)
        else (
            "<think>等等，不对。</think> <answer>1 + 9</answer>"
            if i == 2
            else "<think>Wait, let me check.</think> <answer>1 + 9</answer>"
        ),
        "length": 10 * step + i,
        "truncated": False,
        "reward": {"accuracy": float(i == 0), "format": 1.0},
        "verdict": ("correct", "wrong", "no_answer")[i],
        "advantage": 0.5 - i,
        "key": [0, step, f"{kind}-{i:02d}", 0],
    }
    for step in (0, 5, 10)
    for kind in ("chain", "choice")
    for i in range(3)
]
ROWS[0] |= {"problem": HOSTILE, "gold": HOSTILE, "round": HOSTILE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with JsonLines(folder / "samples.jsonl") as lines:
        for row in ROWS:
            lines.write(row)
    with JsonLines(folder / "metrics.jsonl") as lines:
        for step in range(1, 11):
            lines.write({"step": step, "kl": step / 10, "reward/accuracy": 0.5, "<b>x</b>": None})
    with JsonLines(folder / "eval.jsonl") as lines:
        lines.write({"step": 0, "n": 8, "accuracy": 0.25})
        lines.write({"step": 10, "n": 8, "accuracy": 0.75})
    (folder / "manifest.json").write_text(json.dumps({"stage": HOSTILE, "seed": 0}))
    report.write(folder)
    return folder


@pytest.fixture(scope="module")
def browser():
    with Chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, folder):
    browser.requests.clear()
    browser.errors.clear()
    browser.open(f"{Path(folder).as_uri()}/report.html")
    yield browser
    assert browser.errors == []
    assert set(browser.requests) == {f"{folder.as_uri()}/report.html"}, "the page asked for more"


def choose(page, name, value):
    page.run(
        f"(() => {{ const e = document.getElementById('filters')[{json.dumps(name)}];"
        f"e.value = {json.dumps(value)};"
        "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def shown(page):
    """(step, kind, language) of the samples listed, and the line that counts them."""
    items = page.run("[...document.querySelectorAll('.item')].map(i => [i.row.step, i.row.id])")
    return {tuple(item) for item in items}, page.run("document.getElementById('count').textContent")


def expected(wanted):
    return {(row["step"], row["id"]) for row in ROWS if wanted(row)}


def test_all_samples_are_listed_and_each_filter_keeps_what_it_says(page):
    assert shown(page) == (expected(lambda row: True), "18 of 18 shown")
    for name, value, wanted in [
        ("step", "5", lambda row: row["step"] == 5),
        ("kind", "choice", lambda row: row["kind"] == "choice"),
        ("language", "zh", lambda row: row["language"] == "zh"),
        ("verdict", "right", lambda row: row["verdict"] == "correct"),
        ("verdict", "other", lambda row: row["verdict"] != "correct"),
        ("verdict", "=no_answer", lambda row: row["verdict"] == "no_answer"),
        ("text", "WAIT", lambda row: "Wait" in row["completion"]),
        ("text", "不对", lambda row: "不对" in row["completion"]),
        ("text", "make 11", lambda row: row["problem"] == "make 11"),
        ("text", "id:choice-01", lambda row: row["id"] == "choice-01"),
        ("text", "nowhere", lambda row: False),
    ]:
        choose(page, name, value)
        found = expected(wanted)
        assert shown(page) == (found, f"{len(found)} of 18 shown"), (name, value)
        choose(page, name, "")
    choose(page, "step", "10")
    choose(page, "language", "en")
    choose(page, "verdict", "right")
    assert shown(page)[0] == {(10, "chain-00"), (10, "choice-00")}
    page.run("document.querySelector('#filters [type=reset]').click()")
    page.run("new Promise(done => setTimeout(done))")
    assert shown(page)[1] == "18 of 18 shown"


def test_a_filtered_view_has_an_address(browser, page, folder):
    choose(page, "kind", "choice")
    choose(page, "verdict", "right")
    address = page.run("location.href")
    assert address.endswith("#samples?kind=choice&verdict=right")
    browser.open(address)
    assert shown(browser)[1] == "3 of 18 shown"


def test_samples_can_be_ordered_by_length(page):
    choose(page, "order", "length")
    lengths = page.run("[...document.querySelectorAll('.item')].map(i => i.row.length)")
    assert lengths == sorted((row["length"] for row in ROWS), reverse=True)


def test_the_chosen_sample_is_shown_with_rewards_tags_and_reflective_words(page):
    choose(page, "text", "id:choice-02")
    text = page.run("document.getElementById('sample').innerText")
    for part in ("用数字得到 12", "no answer", "reward: format", "-1.50", "0, 0, choice-02, 0"):
        assert part in text
    assert page.run("[...document.querySelectorAll('#sample mark')].map(m => m.textContent)") == [
        "等等",
        "不对",
    ]
    assert page.run("document.querySelector('#sample .think').textContent") == "等等，不对。"
    assert page.run("document.querySelector('#sample .bad-answer').textContent") == "1 + 9"


def test_hostile_text_is_shown_and_not_obeyed(page):
    choose(page, "text", "id:chain-00")
    assert page.run("typeof window.hacked") == "undefined"
    assert page.run("document.querySelectorAll('img, iframe, link').length") == 0
    for place in ("#sample h3", "#sample .figures", ".item"):
        assert "<img src=http" in page.run(f"document.querySelector('{place}').textContent")
    text = page.run("document.querySelector('#sample .text').textContent")
    assert "</script><script>window.hacked=1</script><img src=http://evil" in text
    assert "␀␛[31m" in text and "‹U+202E›gnp.exe" in text  # made visible


def test_the_page_may_not_ask_the_network_even_if_a_script_tried(page):
    asked = "fetch('http://evil.example/').then(() => 'sent', () => 'refused')"
    assert page.run(asked) == "refused"
    image = "new Promise(done => { const i = new Image(); i.onload = () => done('sent');"
    image += "i.onerror = () => done('refused'); i.src = 'http://evil.example/x.png'; })"
    assert page.run(image) == "refused"
    # The recorder of requests sees even a refused one, so `page` would notice any other.
    page.requests.remove("http://evil.example/x.png")


def test_the_marks_on_the_page_are_the_words_the_log_counts(page):
    for text in (
        "Wait, but checked. ERROR!",
        "等等wait再check一下，出错误",
        "éwait wait_for 2check",
        "wait’s",
        "等等等等",
        "Ⅷwait",
        "but但是but",
    ):
        hits = page.run(f"[...{json.dumps(text)}.matchAll(reflective)].length")
        assert hits == reflective_words(text), text


def test_pointing_at_a_curve_reads_all_curves_at_that_step(page):
    figures = page.run(
        "(() => { const c = charts.find(c => c.figure.textContent.includes('KL')).plot"
        ".querySelector('svg'); c.scrollIntoView({behavior: 'instant'});"
        "const b = c.getBoundingClientRect();"
        "return [b.left + b.width * 0.4, b.top + b.height / 2]; })()"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=figures[0], y=figures[1])
    outputs = page.run("[...document.querySelectorAll('output')].map(o => o.textContent)")
    # The axis runs from 0 to 10, so 40 % of it is step 4; accuracy alone was evaluated at 0 and 10.
    assert set(outputs) == {"step 4", "step 0"}
    assert "k3 0.400" in page.run("document.body.innerText")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert "k3 1" in page.run("document.body.innerText")  # at rest: the last step


def test_double_clicking_a_curve_shows_the_samples_of_the_nearest_step(page):
    page.run(
        "(() => { const c = charts[0].plot.querySelector('svg'), b = c.getBoundingClientRect();"
        "c.dispatchEvent(new MouseEvent('dblclick', {clientX: b.left + b.width * 0.9})); })()"
    )
    page.run("new Promise(done => setTimeout(done))")
    assert shown(page) == (expected(lambda row: row["step"] == 10), "6 of 18 shown")


def test_figures_are_written_alike_by_the_page_and_its_script(page):
    for value in (0, 0.6123, 1.239, 63.94, 161.4, 5185.2, 3, 2.1e-6, 1.2e9, -0.25, 999.6, 0.00099):
        assert page.run(f"number({value!r})") == number(value)


def test_the_colours_follow_the_system_and_the_button(page):
    def paper():
        return page.run("getComputedStyle(document.body).backgroundColor")

    page.run("setTheme('')")
    page.scheme("light")
    light = paper()
    page.scheme("dark")
    dark = paper()
    assert light != dark
    page.run("document.getElementById('theme').click()")  # as the system -> light
    assert paper() == light
    page.run("document.getElementById('theme').click()")  # light -> dark
    page.scheme("light")
    assert paper() == dark
    page.run("setTheme('')")
    assert paper() == light


@pytest.mark.parametrize("width", [360, 420, 800, 1400])
def test_the_page_never_scrolls_sideways(page, width):
    page.resize(width, 900)
    over = page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    page.resize(1400, 1000)
    assert over == 0
