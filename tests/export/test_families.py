"""Every family of generators, exported and run by ONNX Runtime, against its network."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from exported_models import FAMILIES, STYLED, UNET, saved, unet_method
from patchkin.errors import ConfigError
from patchkin.export.graph import from_pt2
from patchkin.export.writing import ExportSettings, export_model
from patchkin.randomness import SeededDraws
from patchkin.translation.exported import ExportHeader
from patchkin.translation.translator import Translator

SIZES = ((1, 9, 26), (3, 35, 14), (2, 21, 47))
"""Not those that the exporter itself tries."""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_translates_as_its_network_on_any_size(tmp_path, family):
    translator = Translator.load(saved(tmp_path, family), device="cpu")
    exported = export_model(translator, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert {opset.version for opset in onnx.load(tmp_path / "model.onnx").opset_import} == {18}
    shapes = [entry.shape for entry in (*session.get_inputs()[:1], *session.get_outputs())]
    of_input, of_output = exported.header.channels
    assert shapes == [
        ["batch", of_input, "height", "width"],
        ["batch", of_output, "height", "width"],
    ]
    for count, height, width in SIZES:
        x_BCHW = torch.rand(count, of_input, height, width) * 2 - 1
        feed = {"image": x_BCHW.numpy()}
        styles_BS = None
        if family in STYLED:
            styles_BS = translator.latent_styles(SeededDraws(5, 0), count=count)
            feed["style"] = styles_BS.numpy()
        (y_BCHW,) = session.run(None, feed)
        expected_BCHW = translator(x_BCHW, styles_BS)
        assert y_BCHW.shape == (count, of_output, height, width)
        assert np.abs(y_BCHW - expected_BCHW.numpy()).max() < 1e-4
    header = ExportHeader.from_metadata(session.get_modelmeta().custom_metadata_map, "it")
    assert header == exported.header
    assert header.difference[1] < 1e-4


def test_a_pt2_file_translates_as_its_network(tmp_path):
    translator = Translator.load(saved(tmp_path, "resnet"), device="cpu")
    exported = export_model(translator, tmp_path / "model.pt2", ExportSettings(range="0..1"))
    module, told = from_pt2((tmp_path / "model.pt2").read_bytes())
    assert json.loads(told)["method"] == exported.header.method == "cut"
    for count, height, width in SIZES:
        x_BCHW = torch.rand(count, 3, height, width)
        with torch.no_grad():
            y_BCHW = module(x_BCHW)
        expected_BCHW = (translator(x_BCHW * 2 - 1) + 1) / 2
        torch.testing.assert_close(y_BCHW, expected_BCHW, atol=1e-5, rtol=0)


def test_dropout_that_stays_on_is_refused(tmp_path):
    method = unet_method(replace(UNET, levels=6, dropout_at_test=True))
    translator = Translator.load(saved(tmp_path, method), device="cpu")
    with pytest.raises(ConfigError, match="draws random numbers when it translates"):
        export_model(translator, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
