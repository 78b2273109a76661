"""Makes the pictures of docs/review.md: `python scripts/review_screenshots.py`, with Chromium installed.

They show the page of `miner review` on a small store, as tests/test_review_page.py uses it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.review_support import chromium, readable_store, serving_review  # noqa: E402

IMAGES = ROOT / "docs" / "images"


def main() -> None:
    """Writes review.png, an answered pair in a wide window, and review-phone.png, an open one in the dark."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        store = readable_store(Path(folder) / "my.duckdb", without="marked-up")
        with serving_review(store) as served, chromium() as browser:
            for name, width, height, scheme in (
                ("review-phone", 360, 640, "dark"),
                ("review", 1240, 540, "light"),
            ):
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                page.goto(served.address)
                page.locator("#name").fill("anna")
                page.keyboard.press("Enter")
                page.locator("#main").wait_for()
                page.keyboard.press("/")
                page.locator("#search").fill("defrosts itself")
                page.keyboard.press("Enter")
                page.locator("#found button").first.click()
                page.locator("#candidate", has_text="defrosts").wait_for()
                if name == "review":
                    page.locator("#go-on").uncheck()
                    page.keyboard.press("1")
                    page.locator("#machine").wait_for()
                page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
