"""Page and interface as one ASGI application that asks nothing of other hosts."""

from __future__ import annotations

from importlib import resources
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils

from patchkin.web.interface import add_interface
from patchkin.web.page import ModelTab
from patchkin.web.shown import ONE_AT_A_TIME, Shown
from patchkin.web.watching import RunsTab

QUEUE = 64
"""Jobs that wait; more are told to come back. What takes no time does not wait in it."""

_CONTRAST = {
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_dark": "*primary_700",
    "slider_color": "*primary_600",
    "block_info_text_color": "*neutral_600",
    "block_label_text_color": "*neutral_600",
    "body_text_color_subdued": "*neutral_600",
}
"""Colours that are read more easily than the theme's."""


def build(shown: Shown, *, max_upload_bytes: int) -> Any:
    """The ASGI application, without its guard."""
    _fetch_nothing()
    with gr.Blocks(title="patchkin", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML("<h1>patchkin</h1>", elem_id="heading")
        if shown.runs is None:
            tab = ModelTab(shown)
        else:
            with gr.Tab("Translate", elem_id="tab-translate") as translating:
                tab = ModelTab(shown)
            with gr.Tab("Runs", elem_id="tab-runs") as watching:
                RunsTab(shown).look_while(watching, translating)
        add_interface(shown)
        tab.describe_at(page.load)

        def leave(request: gr.Request) -> None:
            shown.visitors.forget(request.session_hash)

        def drop(session: str) -> None:
            page.state_holder.session_data.pop(session, None)
            page.state_holder.time_last_used.pop(session, None)

        shown.visitors.when_forgotten(drop)

        page.unload(leave)
    page.queue(max_size=QUEUE, default_concurrency_limit=4)
    for function in page.fns.values():
        if function.concurrency_id == ONE_AT_A_TIME:
            function.concurrency_limit = 1
    return gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        theme=gr.themes.Base(
            primary_hue="teal",
            neutral_hue="slate",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ).set(**_CONTRAST),
        css=resources.files("patchkin.web").joinpath("page.css").read_text(encoding="utf-8"),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        pwa=False,
        ssr_mode=False,
        show_error=True,
        max_file_size=max_upload_bytes,
    )


def _fetch_nothing() -> None:
    """Let no call make the server fetch an address: files are uploaded."""

    async def refuse(*_: Any, **__: Any) -> Any:
        raise gr.Error("This server fetches no addresses: upload the file.", print_exception=False)

    processing_utils.async_ssrf_protected_get = refuse
    processing_utils.async_ssrf_protected_download = refuse
