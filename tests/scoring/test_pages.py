"""The pages in a real browser: every image loads and nothing is fetched from anywhere.

Needs Chromium (`apt-get install chromium`) and `pip install playwright`; skipped without the
browser, but not where CI is set: there it is a failure.
"""

from __future__ import annotations

from browsing import browser, needs_chromium, unreadable

__all__ = ["browser"]
pytestmark = needs_chromium


def look(browser, path):
    """Messages of the console, addresses asked for, and the widths of all images."""
    page = browser.new_page()
    messages, addresses = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: addresses.append(request.url.split(":")[0]))
    page.goto(path.as_uri())
    widths = page.eval_on_selector_all("img", "images => images.map(i => i.naturalWidth)")
    text = page.inner_text("body")
    assert unreadable(page) == []
    page.close()
    return messages, set(addresses), widths, text


def test_the_report_opens_with_every_image(command, run_copy, toy_root, browser):
    command("inspect", run_copy, toy_root / "testA" / "0000.png", "--point", "20,20", "--output",
            run_copy / "inspection")  # fmt: skip
    code, _, err = command("evaluate", run_copy, "--data", toy_root, "--protocol")
    assert code == 0, err
    messages, schemes, widths, text = look(browser, run_copy / "report.html")
    assert messages == []
    assert schemes <= {"file", "data"}
    assert len(widths) == 6  # two previews, cases, inspection, curves of scores and terms
    assert min(widths) > 0
    for part in ("Validation scores", "untrained", "Worst and best cases", "counterpart/psnr"):
        assert part in text


def test_the_comparison_opens_with_every_image(command, run_copy, tmp_path, browser):
    page = tmp_path / "comparison.html"
    code, _, err = command("compare", run_copy, "--output", page)
    assert code == 0, err
    messages, schemes, widths, text = look(browser, page)
    assert messages == []
    assert schemes <= {"file", "data"}
    assert len(widths) == 1
    assert min(widths) > 0
    assert "scores of test images" in text
    assert f"not evaluated: run patchkin evaluate {run_copy}" in text
