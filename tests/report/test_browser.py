"""The page in a real browser, where one is installed: it fits, works, and fetches nothing."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qbench_suite.report import write_reports

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BINARY = next(filter(None, map(shutil.which, BROWSERS)), None)
SECONDS = 60.0
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--hide-scrollbars", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """A headless Chromium, spoken to over pipes in the Chrome DevTools Protocol."""

    def __init__(self, binary: str, profile: Path) -> None:
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self._rest = b""
        # The browser reads its file 3 and writes its file 4: these two must lie above them.
        ends = [
            fcntl.fcntl(end, fcntl.F_DUPFD, 10) for pair in (os.pipe(), os.pipe()) for end in pair
        ]
        read, self._to, self._from, write = ends

        def connect() -> None:
            os.dup2(read, 3)
            os.dup2(write, 4)

        self.process = subprocess.Popen(
            [binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=connect,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session: str | None = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    session: str | None = None

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer)
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, page: Path, width: int = 1280, dark: bool = False) -> None:
        """Show ``page`` in a window of ``width`` pixels and wait until it is loaded."""
        self.events.clear()
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._read()

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, file: Path) -> None:
        """Write the whole page as a PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[dict[str, Any]]:
        """Errors and messages on the console since the page was opened."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event["method"] in kinds]

    def requests(self) -> list[str]:
        """What the page asked for, itself left out."""
        sent = [e for e in self.events if e["method"] == "Network.requestWillBeSent"]
        urls = [str(event["params"]["request"]["url"]) for event in sent]
        return [url for url in urls[1:] if not url.startswith("data:")]

    def close(self) -> None:
        """End the browser."""
        self.session = None
        try:
            self.call("Browser.close")
            self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
        os.close(self._to)
        os.close(self._from)

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            left = deadline - time.monotonic()
            ready = select.select([self._from], [], [], max(left, 0))[0]
            chunk = os.read(self._from, 1 << 20) if ready else b""
            assert chunk, "the browser says nothing"
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A running browser; skips where none is installed."""
    if BINARY is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    running = Browser(BINARY, tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 800, 1280])
def test_the_page_fits_its_window_without_complaint(
    browser: Browser, realistic: Path, width: int, dark: bool
) -> None:
    browser.open(realistic / "report.html", width, dark)
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.complaints() == []
    assert browser.requests() == []
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    red = int(background.removeprefix("rgb(").split(",")[0])
    assert (red < 60) == dark


def luminance(rgb: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` as WCAG 2 defines it."""
    channels = [int(c) / 255 for c in re.findall(r"\d+", rgb)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_can_be_read(browser: Browser, realistic: Path, dark: bool) -> None:
    browser.open(realistic / "report.html", dark=dark)
    inks, grounds = ["ink", "muted", "accent", "good", "bad"], ["paper", "card", "soft"]
    colours = browser.run(
        """((names) => {
          const probe = document.body.appendChild(document.createElement("i"));
          return names.map((name) => {
            probe.style.color = `var(--${name})`;
            return getComputedStyle(probe).color;
          });
        })"""
        f"({json.dumps(inks + grounds)})"
    )
    light = dict(zip(inks + grounds, map(luminance, colours), strict=True))
    for ink, ground in itertools.product(inks, grounds):
        low, high = sorted((light[ink], light[ground]))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


TABLE = "document.querySelector('[data-table=models]')"


def shown(browser: Browser, column: int) -> list[str]:
    value = f"r.cells[{column}].firstChild?.textContent ?? ''"  # what follows it is a note
    cells = f"[...{TABLE}.querySelectorAll('tr.row')].map((r) => {value})"
    result: list[str] = browser.run(cells)
    return result


def test_a_heading_sorts_both_ways_with_empty_cells_last(browser: Browser, realistic: Path) -> None:
    browser.open(realistic / "report.html")
    browser.run(f"{TABLE}.querySelector('.all').click()")
    heading = (
        f"[...{TABLE}.querySelectorAll('thead button')].find((b) => b.textContent === 'top-1')"
    )
    browser.run(f"{heading}.click()")
    down = shown(browser, 4)
    numbers = [float(text) for text in down[:-1]]
    assert len(down) == 42
    assert numbers == sorted(numbers, reverse=True)
    assert down[-1] == ""
    assert browser.run(f"{heading}.closest('th').getAttribute('aria-sort')") == "descending"
    browser.run(f"{heading}.click()")
    assert [float(text) for text in shown(browser, 4)[:-1]] == sorted(numbers)
    assert shown(browser, 4)[-1] == ""


def inside(browser: Browser, cell: int) -> bool:
    """Whether the column ``cell`` of every row shown is in sight without scrolling the table."""
    script = f"""(() => {{
      const right = {TABLE}.querySelector('.scroll').getBoundingClientRect().right;
      return [...{TABLE}.querySelectorAll('tr.row')].every(
        (row) => row.cells[{cell}].getBoundingClientRect().right <= right + 0.5);
    }})()"""
    return bool(browser.run(script))


@pytest.mark.parametrize("models", [1, 3])
def test_the_table_of_cases_is_seen_whole(
    browser: Browser, make_run: Any, made: Any, models: int
) -> None:
    rows = [r for r in made.realistic_models() if models == 3 or r.model.startswith("deit")]
    folder = make_run(*rows)
    write_reports(folder)
    browser.open(folder / "report.html", 1280)
    last = browser.run(f"{TABLE}.querySelector('tr.row').cells.length") - 1
    assert inside(browser, last)
    browser.open(folder / "report.html", 390)
    heads = f"[...{TABLE}.querySelectorAll('thead th')].map((h) => h.textContent)"
    top1 = next(i for i, head in enumerate(browser.run(heads)) if head.startswith("top-1"))
    assert inside(browser, top1)
    browser.run(f"{TABLE}.querySelector('.open').click()")
    details = browser.run(f"{TABLE}.querySelector('.more').innerText")
    assert "slowdown (×)" in details
    assert "SQNR of logits (dB)" in details


def test_a_filter_keeps_rows_that_hold_every_word(browser: Browser, realistic: Path) -> None:
    browser.open(realistic / "report.html")
    browser.run(
        f"(() => {{ const i = {TABLE}.querySelector('input'); i.value = 'DEIT failed'; "
        "i.dispatchEvent(new Event('input')); })()"
    )
    policy = browser.run(f"{TABLE}.querySelector('tr.row').cells[1].textContent")
    assert policy == "w4a4-nv16deit_tiny_patch16_224"
    assert browser.run(f"{TABLE}.querySelector('.count').textContent") == "1 of 42"


def test_a_row_opens_by_key_and_shows_its_command(browser: Browser, realistic: Path) -> None:
    browser.open(realistic / "report.html")
    browser.run(f"{TABLE}.querySelector('.open').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
                     windowsVirtualKeyCode=13)  # fmt: skip
    assert browser.run(f"{TABLE}.querySelector('.open').getAttribute('aria-expanded')") == "true"
    code = browser.run(f"{TABLE}.querySelector('.more code').textContent")
    assert code.startswith(
        "pytest 'cases/test_models.py::test_model[convnext_digits-fp8_e4m3-token]'"
    )
    link = browser.run(f"{TABLE}.querySelector('.more a').getAttribute('href')")
    assert (realistic / link).is_file()
    browser.run(f"{TABLE}.querySelector('.copy').click()")
    said = browser.run(
        f"new Promise((r) => setTimeout(() => r({TABLE}.querySelector('.copy').textContent), 200))"
    )
    assert said in ("Copied", "Selected")
    assert browser.complaints() == []


def test_the_pointer_reads_a_heatmap(browser: Browser, realistic: Path) -> None:
    browser.open(realistic / "report.html")
    script = """(() => {
      const figure = document.querySelector(".heat"), svg = figure.querySelector("svg");
      const box = svg.querySelector("image").getBoundingClientRect();
      const table = figure.querySelector("table"), rows = table.tBodies[0].rows;
      const at = { bubbles: true, clientX: box.left + box.width * 2.5 / (rows[0].cells.length - 1),
                   clientY: box.top + box.height * 4.5 / rows.length };
      svg.dispatchEvent(new PointerEvent("pointermove", at));
      const cell = rows[4].cells[3], head = table.tHead.rows[0].cells[3];
      return [figure.querySelector(".readout").textContent,
              `${rows[4].cells[0].textContent} · ${head.textContent}: ${cell.textContent} dB`];
    })()"""
    said, expected = browser.run(script)
    assert said == expected


def test_a_hostile_run_does_nothing(browser: Browser, make_run: Any, made: Any) -> None:
    act = 'document.title = "taken"'
    alert = f"</script><script>{act}</script><img src=x onerror='{act}'>"
    row = made.model_row(alert, alert, case=alert, reason=alert)
    row.details += made.model_layer_rows(row, count=3)
    folder = make_run(row, machine=alert)
    write_reports(folder)
    browser.open(folder / "report.html")
    browser.run("document.querySelectorAll('.open').forEach((b) => b.click())")
    assert browser.run("document.title").endswith("· qbench")
    assert browser.complaints() == []
    assert browser.requests() == []
