"""The page of `patchkin demo`: a model at work in a browser, and runs while they train.

    guard.py       who may ask: addresses, tokens, and nothing from other pages
    patience.py    how much and how slowly one may ask
    server.py      a port and its end              application.py what answers there
    page.py        the tab of a model at work      watching.py  the tab of runs
    models.py      models to choose from           visitors.py  what each visitor has made
    examples.py    images to try                   pictures.py  files as a browser shows them
    translating.py files to files                  points.py    what a point relates to
    curves.py      what is logged, as drawings

Needs the extra `web`; only what `application.py` puts together imports gradio.
"""
