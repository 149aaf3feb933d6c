"""The tab of a model at work: choose, translate, compare, download, click a point."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from patchkin.errors import PatchkinError
from patchkin.method import Method
from patchkin.web.pictures import show
from patchkin.web.points import Related, related
from patchkin.web.shown import ONE_AT_A_TIME, Shown, message
from patchkin.web.translating import MOST_SAMPLES, Made, Result, Wish, translations, zipped

_OWN, _DRAWN, _REFERENCE = "usual", "drawn", "reference"
_STYLES = [("The usual one", _OWN), ("Drawn at random", _DRAWN), ("Of an image", _REFERENCE)]
_LARGE = [("At the size of training, then enlarged", "enlarge"), ("In tiles", "tiles")]
_DIRECTIONS = [("A to B", "AtoB"), ("B to A", "BtoA")]
_MOST_SAID = 6
"""Lines about files that failed."""
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}
_LIGHT: dict[str, Any] = {"queue": False, **_PRIVATE}
"""Of what takes no time: it is done while others compute."""
_BUSY = "This was not done; the notice tells why. If too many wait, try again in a moment."
_POINTS = "### What does a point relate to?\n"
_ASKS = (
    "Click into either picture. Yellow places are to the model like the point, dark ones unlike "
    "it; where both pictures agree, the translation kept the relations."
)
_POINTLESS = (
    "This model cannot tell: it has no head that compares patches. Models of methods that contrast "
    "them, such as `cut` and `semantic-relation`, show it here."
)
_ONE_WAY = "Patches are compared from A to B only."


@dataclass(frozen=True)
class Shelf:
    """What a visitor sees: translations, which of them, and its points."""

    wish: Wish
    made: Sequence[Made] = ()
    chosen: int = 0
    folder: Path = Path()
    displayed: Path = Path()
    """The picture to click into."""
    related: Related | None = field(default=None)


class ModelTab:
    """The components of the tab, and what they do."""

    def __init__(self, shown: Shown) -> None:
        """To be made inside of `gr.Blocks`."""
        self._shown = shown
        self.sources = gr.State([])
        self.shelf = gr.State(None)
        with gr.Row(elem_classes="sides"):
            with gr.Column(scale=2, min_width=300):
                self._make_choices()
            with gr.Column(scale=3, min_width=320):
                self._make_results()
        self._connect()

    # Components

    def _make_choices(self) -> None:
        names = self._shown.models.names
        self.model = gr.Dropdown(names, value=names[0], label="Model", filterable=len(names) > 8)
        self.direction = gr.Radio(_DIRECTIONS, value="AtoB", label="Direction", visible=False)
        self.files = gr.File(
            label="Your images",
            file_count="multiple",
            height=150,
            elem_id="upload",
        )
        self.folder = gr.UploadButton(
            "Choose a whole folder", file_count="directory", size="sm", elem_id="folder"
        )
        gr.HTML("<h3>Or one of these</h3>", elem_classes="small")
        self.examples = gr.Gallery(
            [str(example.picture) for example in self._shown.examples],
            label="Examples",
            show_label=False,
            columns=3,
            height="auto",
            object_fit="cover",
            allow_preview=False,
            buttons=[],
            elem_id="examples",
            interactive=False,
        )
        with gr.Group(visible=False) as self.styles:
            self.domain = gr.Dropdown([], label="Domain", visible=False)
            self.style = gr.Radio(_STYLES, value=_OWN, label="Style", elem_id="style")
            with gr.Row(visible=False) as self.drawing:
                self.samples = gr.Slider(1, MOST_SAMPLES, value=4, step=1, label="Styles")
                self.seed = gr.Number(0, precision=0, label="Seed", minimum=0, maximum=2**31)
            self.reference = gr.File(
                label="An image that has the style", visible=False, height=110, elem_id="reference"
            )
        self.large = gr.Radio(
            _LARGE,
            value="enlarge",
            label="Images larger than in training",
            info="Tiles keep detail; the other way keeps what the model knows as large as it knew.",
        )
        with gr.Row(elem_classes="buttons"):
            self.start = gr.Button(
                "Translate", variant="primary", min_width=120, elem_id="translate"
            )
            self.cancel = gr.Button("Cancel", interactive=False, min_width=120, elem_id="cancel")

    def _make_results(self) -> None:
        self.status = gr.HTML(
            message("Drop an image, or take one of the examples."), elem_id="status"
        )
        self.slider = gr.ImageSlider(
            label="Input and output",
            show_label=False,
            visible=False,
            interactive=False,
            type="filepath",
            max_height=560,
            buttons=["fullscreen"],
            elem_id="slider",
        )
        self.gallery = gr.Gallery(
            label="All translations",
            show_label=False,
            visible=False,
            columns=4,
            height="auto",
            object_fit="cover",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id="results",
        )
        self.download = gr.DownloadButton(
            "Download", visible=False, variant="secondary", elem_id="download"
        )
        with gr.Column(visible=False, elem_id="explore") as self.explore:
            self.asks = gr.Markdown(_POINTS + _ASKS)
            with gr.Column() as self.maps:
                with gr.Row():
                    self.before = _picture("Input", "before")
                    self.after = _picture("Output", "after")
                self.tap = gr.Radio([], label="Layer (tap)", visible=False, elem_id="taps")
                self.agreement = gr.HTML("", elem_id="agreement")
                with gr.Accordion("By numbers", open=False, elem_id="by-numbers"), gr.Row():
                    self.y = gr.Number(50, label="Down, in %", minimum=0, maximum=100)
                    self.x = gr.Number(50, label="Across, in %", minimum=0, maximum=100)
                    self.compare = gr.Button("Compare this point", elem_id="compare-point")

    # Events

    def _connect(self) -> None:
        self.style.change(self._on_style, self.style, [self.drawing, self.reference], **_LIGHT)
        self.files.clear(lambda: [], None, self.sources, **_LIGHT)
        chosen = (
            self.files.upload(_uploaded, self.files, self.sources, **_LIGHT),
            self.folder.upload(_uploaded, self.folder, self.sources, **_LIGHT),
            self.examples.select(self._on_example, None, self.sources, **_LIGHT),
            self.start.click(lambda sources: sources, self.sources, self.sources, **_LIGHT),
        )
        wish = [self.model, self.direction, self.domain, self.style, self.samples, self.seed]
        wish += [self.reference, self.large]
        shows = [self.status, self.cancel, self.slider, self.gallery, self.download, self.shelf]
        shows += [self.explore, self.asks, self.maps, self.before, self.after, self.tap]
        shows += [self.agreement]
        for event in chosen:
            event.success(self._begin, None, [self.status, self.cancel], **_LIGHT).success(
                self._translate,
                [self.sources, *wish],
                shows,
                concurrency_id=ONE_AT_A_TIME,
                show_progress="hidden",
                **_PRIVATE,
            ).failure(_too_many, None, [self.status, self.cancel], **_LIGHT)
        self.cancel.click(self._cancel, None, self.status, **_LIGHT)
        self.gallery.select(
            self._on_result,
            self.shelf,
            [self.slider, self.shelf, self.before, self.after, self.tap, self.agreement],
            **_LIGHT,
        )
        points = [self.shelf, self.before, self.after, self.tap, self.agreement]
        clicked: dict[str, Any] = {"concurrency_id": ONE_AT_A_TIME, **_PRIVATE}
        for picture in (self.before, self.after):
            picture.select(self._on_point, [self.shelf, self.tap], points, **clicked)
        self.compare.click(
            self._on_numbers, [self.shelf, self.tap, self.y, self.x], points, **clicked
        )
        self.tap.input(
            self._on_tap, [self.shelf, self.tap], [self.shelf, *points[1:3], self.agreement],
            **_LIGHT,
        )  # fmt: skip

    def describe_at(self, load: Any) -> None:
        """Ask what can be chosen when the page is loaded and whenever the model changes.

        It is one event, whose next question waits for the answer to the last: two events were
        answered in any order, and the first model's answer hid what another one offers.

        Args:
            load: the event of the page.
        """
        gr.on(
            [load, self.model.change],
            self._on_model,
            self.model,
            [self.direction, self.styles, self.domain],
            trigger_mode="always_last",
            **_LIGHT,
        )

    def _on_model(self, name: str) -> list[Any]:
        """What can be chosen of a model."""
        try:
            translator = self._shown.models.translator(name)
        except PatchkinError as error:
            raise gr.Error(str(error), print_exception=False) from error
        several = translator.has_styles and translator.num_domains > 1
        labels = translator.domains or tuple(map(str, range(translator.num_domains)))
        both = len(translator.method.directions) > 1
        return [
            gr.Radio(value="AtoB", visible=both),
            gr.Group(visible=translator.has_styles),
            gr.Dropdown(
                choices=list(labels) if several else [],
                value=labels[0] if several else None,
                visible=several,
            ),
        ]

    def _on_style(self, style: str) -> list[Any]:
        return [gr.Row(visible=style == _DRAWN), gr.File(visible=style == _REFERENCE)]

    def _on_example(self, event: gr.SelectData) -> list[str]:
        return [str(self._shown.examples[int(event.index)].file)]

    # Translating

    def _begin(self, request: gr.Request) -> list[Any]:
        self._shown.visitors.of(request.session_hash).begin()
        return [message("Waiting for its turn."), gr.Button(interactive=True)]

    def _cancel(self, request: gr.Request) -> str:
        self._shown.visitors.of(request.session_hash).cancel()
        return message("Stopping.")

    def _translate(  # noqa: PLR0917 (gradio hands them over by position)
        self,
        sources: list[str],
        model: str,
        direction: Any,
        domain: str | None,
        style: str,
        samples: float,
        seed: float | None,
        reference: str | None,
        large: Any,
        request: gr.Request,
    ) -> Iterator[list[Any]]:
        drawn, taken = style == _DRAWN, style == _REFERENCE and reference is not None
        wish = Wish(
            model=model,
            direction=direction,
            domain=domain or None,
            samples=int(samples) if drawn else 0,
            seed=int(seed or 0),
            references=(Path(str(reference)),) if taken else (),
            large=large,
        )
        visitor = self._shown.visitors.of(request.session_hash)
        try:
            if style == _REFERENCE and not taken:
                raise gr.Error("Give an image that has the style.", print_exception=False)
            with visitor.working():
                yield from self._steps(sources, wish, visitor)
        except (PatchkinError, gr.Error) as error:
            said = error.message if isinstance(error, gr.Error) else str(error)
            yield _only(message(said, bad=True), working=False)

    def _steps(self, sources: list[str], wish: Wish, visitor: Any) -> Iterator[list[Any]]:
        files = [Path(source) for source in sources]
        if not files:
            yield _only(message("There is no image yet: drop one, or take an example."))
            return
        if len(files) > self._shown.max_files:
            many = f"{len(files)} files are more than the {self._shown.max_files} of one job."
            yield _only(message(many, bad=True))
            return
        translator = self._shown.models.translator(wish.model, wish.direction)
        folder, begun, result = visitor.new_folder(), time.monotonic(), Result(0)
        steps = translations(
            translator,
            files,
            wish,
            folder / "out",
            tile=self._shown.tile,
            cancelled=visitor.wish,
        )
        for result in steps:
            number = min(result.done + 1, result.total)
            yield _only(message(f"Translating {number} of {result.total}."), working=True)
        shelf = Shelf(wish, tuple(result.made), folder=folder)
        yield self._results(shelf, result, time.monotonic() - begun)

    def _results(self, shelf: Shelf, result: Result, seconds: float) -> list[Any]:
        said, hint = _told(result, seconds), self._hint(shelf.wish)
        if not result.made:
            return _only(said, working=False)
        pictures, shelf = self._chosen(shelf, 0)
        several = len(result.made) > 1
        file = result.made[0].target
        if several:
            file = zipped(result.made, shelf.folder / "translations.zip")
        captions = [f"{one.target.name}" for one in result.made]
        shown = [(str(self._small(shelf, n)), text) for n, text in enumerate(captions)]
        label = f"Download all {len(result.made)} (ZIP)" if several else f"Download {file.name}"
        return [
            said,
            gr.Button(interactive=False),
            gr.ImageSlider(value=pictures, visible=True),
            gr.Gallery(value=shown if several else [], visible=several),
            gr.DownloadButton(label, value=str(file), visible=True),
            shelf,
            gr.Column(visible=True),
            _POINTS + hint,
            gr.Column(visible=hint == _ASKS),
            *pictures,
            gr.Radio(choices=[], value=None, visible=False),
            "",
        ]

    def _hint(self, wish: Wish) -> str:
        """What can be asked of points, or why nothing can."""
        method = self._shown.models.translator(wish.model, wish.direction).method
        if type(method).patch_maps is Method.patch_maps:
            return _POINTLESS
        return _ASKS if wish.direction == "AtoB" else _ONE_WAY

    def _chosen(self, shelf: Shelf, number: int) -> tuple[tuple[str, str], Shelf]:
        """The pictures of a translation, and the shelf with it in front."""
        made = shelf.made[number]
        ranges = self._shown.models.translator(shelf.wish.model, shelf.wish.direction).value_ranges
        before = show(made.source, shelf.folder / f"before-{number}.png", ranges[0])
        after = self._small(shelf, number)
        return (str(before), str(after)), replace(
            shelf, chosen=number, displayed=before, related=None
        )

    def _small(self, shelf: Shelf, number: int) -> Path:
        """The picture of a translation."""
        target = shelf.folder / f"after-{number}.png"
        if target.is_file():
            return target
        ranges = self._shown.models.translator(shelf.wish.model, shelf.wish.direction).value_ranges
        return show(shelf.made[number].target, target, ranges[1])

    def _on_result(self, shelf: Shelf, event: gr.SelectData) -> list[Any]:
        pictures, shelf = self._chosen(shelf, int(event.index))
        return [pictures, shelf, *pictures, gr.Radio(choices=[], value=None, visible=False), ""]

    # Points

    def _on_point(
        self, shelf: Shelf | None, tap: int | None, event: gr.SelectData, request: gr.Request
    ) -> list[Any]:
        if shelf is None:
            return [gr.skip()] * 5
        with Image.open(shelf.displayed) as image:
            width, height = image.size
        x, y = event.index
        return self._point(shelf, tap, ((y + 0.5) / height, (x + 0.5) / width), request)

    def _on_numbers(
        self, shelf: Shelf | None, tap: int | None, y: float, x: float, request: gr.Request
    ) -> list[Any]:
        if shelf is None:
            return [gr.skip()] * 5
        return self._point(shelf, tap, ((y or 0) / 100, (x or 0) / 100), request)

    def _point(
        self, shelf: Shelf, tap: int | None, point: tuple[float, float], request: gr.Request
    ) -> list[Any]:
        translator = self._shown.models.translator(shelf.wish.model, shelf.wish.direction)
        point = (min(max(point[0], 0.0), 1.0), min(max(point[1], 0.0), 1.0))
        try:
            with self._shown.visitors.of(request.session_hash).working():
                found = related(translator, shelf.made[shelf.chosen], point, shelf.folder)
        except PatchkinError as error:
            return [*[gr.skip()] * 4, message(str(error), bad=True)]
        taps = [one.tap for one in found.taps]
        chosen = tap if tap in taps else taps[len(taps) // 2]
        choices = [(f"{one.tap}: sees {one.field_pixels} px", one.tap) for one in found.taps]
        shelf = replace(shelf, related=found)
        pictures = self._on_tap(shelf, chosen)
        radio = gr.Radio(choices=choices, value=chosen, visible=True)
        return [pictures[0], pictures[1], pictures[2], radio, pictures[3]]

    def _on_tap(self, shelf: Shelf, tap: int) -> list[Any]:
        assert shelf.related is not None
        one = next(one for one in shelf.related.taps if one.tap == tap)
        r = "one of the two maps is flat" if math.isnan(one.agreement) else f"{one.agreement:.2f}"
        width, height = shelf.related.size
        said = f"Tap {tap}: correlation of the two maps {r}. Looked at with {width} x {height} px."
        shelf = replace(shelf, displayed=one.before)
        return [shelf, str(one.before), str(one.after), message(said)]


def _picture(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label,
        type="filepath",
        interactive=False,
        buttons=[],
        min_width=150,
        elem_id=name,
    )


def _uploaded(files: list[str] | str | None) -> list[str]:
    return [files] if isinstance(files, str) else list(files or [])


def _too_many() -> list[Any]:
    return [message(_BUSY, bad=True), gr.Button(interactive=False)]


def _only(status: str, *, working: bool = False) -> list[Any]:
    """Nothing changes but what is said."""
    return [status, gr.Button(interactive=working), *[gr.skip()] * 11]


def _told(result: Result, seconds: float) -> str:
    """What became of a job, as HTML."""
    number = len(result.made)
    images = "1 translation" if number == 1 else f"{number} translations"
    line = f"{images} in {seconds:.1f} s."
    if result.cancelled:
        line = f"Cancelled: {result.done} of {result.total} were done."
    elif result.failed and not result.made:
        line = "No image could be translated."
    more = result.failed[:_MOST_SAID]
    if len(result.failed) > _MOST_SAID:
        more.append(f"{len(result.failed) - _MOST_SAID} more could not be translated.")
    more += [f"Not kept: {note}." for note in result.notes[:_MOST_SAID]]
    return message(line, *more, bad=bool(result.failed))
