"""The client of examples/ as its readers run it."""

import importlib.util
import json
from pathlib import Path

import pytest
import requests
from PIL import Image

from tests.command import save
from tests.serve.fake import service

CLIENT = Path(__file__).parents[2] / "examples" / "client.py"


def test_the_client_restores_a_photo_and_tells_why_not(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("client", CLIENT)
    assert spec is not None and spec.loader is not None
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    photo = save(tmp_path / "photo.png")
    with service() as served:
        served.works.gate.set()
        base = f"http://127.0.0.1:{served.port}"
        data, sidecar = client.restore(base, photo, {"upscale": 2})
        (tmp_path / "result.png").write_bytes(data)
        assert Image.open(tmp_path / "result.png").size == (32, 32) and sidecar["name"] == "photo.png"
        assert "done" in capsys.readouterr().out
        with pytest.raises(requests.HTTPError, match="422: .*upscale"):
            client.restore(base, photo, {"upscale": 0})
    assert json.dumps(sidecar)
