"""The call for programs: one image in, its translation out. docs/demo.md has an example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from patchkin.errors import PatchkinError
from patchkin.web.shown import ONE_AT_A_TIME, Shown
from patchkin.web.translating import Wish, translations
from patchkin.web.visitors import IDLE_CALL_SECONDS


def add_interface(shown: Shown) -> None:
    """Put `/translate` beside what the page itself calls; inside of `gr.Blocks`."""

    def translate(  # noqa: PLR0917 (gradio hands them over by position)
        image: str,
        model: str,
        domain: str,
        seed: float | None,
        large: Any,
        request: gr.Request,
    ) -> str:
        """Translate one image; the file that comes back is of the kind that was given."""
        visitor = shown.visitors.of(request.session_hash)
        visitor.patience_seconds = IDLE_CALL_SECONDS
        visitor.begin()
        wish = Wish(
            model=model or shown.models.names[0],
            domain=domain or None,
            samples=0 if seed is None else 1,
            seed=int(seed or 0),
            large=large,
        )
        try:
            if image is None:
                raise gr.Error("`image` is missing.", print_exception=False)
            translator = shown.models.translator(wish.model)
            with visitor.working():
                folder = visitor.new_folder()
                *_, result = translations(
                    translator,
                    [Path(image)],
                    wish,
                    folder,
                    tile=shown.tile,
                    cancelled=visitor.wish,
                )
        except PatchkinError as error:
            raise gr.Error(str(error), print_exception=False) from error
        if not result.made:
            raise gr.Error((result.failed or ["Cancelled."])[0], print_exception=False)
        return str(result.made[0].target)

    with gr.Column(visible=False):
        image = gr.File(label="image")
        model = gr.Textbox(shown.models.names[0], label="model")
        domain = gr.Textbox("", label="domain")
        seed = gr.Number(None, label="seed", precision=0)
        large = gr.Radio(["enlarge", "tiles"], value="enlarge", label="large")
        output = gr.File(label="translation")
        gr.Button().click(
            translate,
            [image, model, domain, seed, large],
            output,
            api_name="translate",
            concurrency_id=ONE_AT_A_TIME,
        )
