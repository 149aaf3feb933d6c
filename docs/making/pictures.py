"""The pictures of the site, from the run of `make demo`: `pictures.py RUN TOY FOLDER`.

They are drawn animals of the toy set, so they are ours. Each is below 60 kB.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

SIDE, GAP = 128, 6
MOST_BYTES = 60_000


def grid(rows: list[list[Path]]) -> Image.Image:
    """Pictures side by side, each as large as `SIDE`."""
    columns = max(map(len, rows))
    step = SIDE + GAP
    page = Image.new("RGB", (columns * step - GAP, len(rows) * step - GAP), "white")
    for y, row in enumerate(rows):
        for x, path in enumerate(row):
            image = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
            page.paste(image, (x * step, y * step))
    return page


def within(image: Image.Image, width: int) -> Image.Image:
    """A picture that is no wider than this."""
    if image.width <= width:
        return image
    height = round(image.height * width / image.width)
    return image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def upper(image: Image.Image, share: float) -> Image.Image:
    """The upper part of a picture."""
    return image.crop((0, 0, image.width, round(image.height * share)))


def save(image: Image.Image, path: Path) -> None:
    """With as many colours as `MOST_BYTES` allow."""
    for colours in (256, 128, 64, 32, 16):
        image.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < MOST_BYTES:
            print(f"{path}: {path.stat().st_size} bytes, {colours} colours")
            return
    raise SystemExit(f"{path} has {path.stat().st_size} bytes; at most {MOST_BYTES}.")


def main(run: Path, toy: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    train_a, train_b = (sorted((toy / name).glob("*.png")) for name in ("trainA", "trainB"))
    save(grid([train_a[:6], train_b[:6]]), folder / "start-data.png")
    inputs = sorted((toy / "testA").glob("*.png"))[:6]
    outputs = [run / "translated" / path.name for path in inputs]
    save(grid([inputs, outputs]), folder / "start-translated.png")
    previews = sorted((run / "previews").glob("step_*.png"))
    for path, name in ((previews[0], "0"), (previews[-1], "last")):
        save(upper(Image.open(path), 0.52), folder / f"start-preview-{name}.png")
    inspection = next(iter(sorted((run / "inspection").glob("*.png"))))
    save(upper(within(Image.open(inspection), 760), 0.62), folder / "start-inspection.png")
    report(run / "report.html", folder / "report.png")


def report(page: Path, target: Path) -> None:
    """What a browser shows of a report first."""
    import shutil

    from playwright.sync_api import sync_playwright

    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1000, "height": 900})
        tab.goto(page.absolute().as_uri())
        shot = target.with_suffix(".part.png")
        heading = tab.locator("h2", has_text="Validation scores").bounding_box()
        area = {"x": 0, "y": heading["y"] - 10, "width": 1000, "height": 900}
        tab.screenshot(path=str(shot), clip=area, full_page=True)
        browser.close()
    save(within(Image.open(shot), 800), target)
    shot.unlink()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
