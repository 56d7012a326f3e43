"""Music through the page's interface for programs, as gradio_client sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_music import chirp

from genmm.media.audio import read_audio, write_audio
from genmm.media.recipes import find_recipe

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def client(page, tmp_path_factory):
    from gradio_client import Client

    client = Client(page, verbose=False, download_files=tmp_path_factory.mktemp("got"), httpx_kwargs={"timeout": 120})
    yield client
    client.close()


def test_compose_and_edit_give_files_and_a_recipe(client, tmp_path):
    from gradio_client import handle_file

    files, recipe = client.predict("calm piano, 90 bpm", seconds=1, seed="4", api_name="/compose")
    assert read_audio(files[0]).samples.shape == (2, 8000)
    assert recipe["task"] == "music" and recipe["takes"][0]["seed"] == 4 and "piano" in recipe["takes"][0]["understood"]
    source = write_audio(tmp_path / "in.flac", chirp(2.0).samples, 8000)
    files, recipe = client.predict(
        handle_file(str(source)), "organ", kind="inpaint", region=[0.5, 1.0], seed="1", api_name="/edit_music"
    )
    made, before = read_audio(files[0]).samples, read_audio(source).samples
    assert np.abs(made[:, :4000] - before[:, :4000]).max() < 1e-3 and recipe["settings"]["spans"] == [[0.5, 1.0]]
    assert Path(files[0]).suffix == ".flac"


def test_a_list_of_descriptions_gives_an_edit_each_and_recipes_of_all_and_of_each(client, tmp_path):
    from gradio_client import handle_file

    source = write_audio(tmp_path / "in.flac", chirp(2.0).samples, 8000)
    asked = {"strength": 0.5, "seed": "3", "api_name": "/edit_music"}
    files, recipe = client.predict(handle_file(str(source)), texts=["organ", "dark choir"], **asked)
    assert [Path(file).name for file in files] == ["edit_1_organ.flac", "edit_2_dark_choir.flac"]
    assert recipe["settings"]["texts"] == ["organ", "dark choir"] and recipe["seeds"] == [3, 3]
    assert [take["text"] for take in recipe["takes"]] == ["organ", "dark choir"]
    own = find_recipe(files[1], beside=False)
    assert own["settings"]["texts"] == ["dark choir"] and own["seeds"] == [3]
    alone, _ = client.predict(handle_file(str(source)), "dark choir", **asked)
    first, second, again = (read_audio(file).samples for file in (*files, *alone))
    assert np.abs(second - again).max() < 2e-3 < np.abs(first - second).max()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"text": "organ", "texts": ["choir"]}, "not both"),
        ({"texts": "organ"}, "list of descriptions"),
        ({"texts": []}, "list of descriptions"),
        ({"texts": ["organ"] * 9}, "at most 8"),
        ({"texts": ["organ", "choir"], "takes": 2}, "not both"),
        ({"texts": ["organ", "choir"], "kind": "extend"}, "only an edit takes several"),
    ],
)
def test_lists_that_cannot_be_made_come_back_as_sentences(client, tmp_path, more, message):
    from gradio_client import handle_file

    source = write_audio(tmp_path / "in.flac", chirp(1.0).samples, 8000)
    with pytest.raises(Exception, match=message):
        client.predict(handle_file(str(source)), api_name="/edit_music", **more)


def test_mistakes_come_back_as_sentences(client):
    with pytest.raises(Exception, match="tempo"):
        client.predict("calm piano", bpm=999, api_name="/compose")
    with pytest.raises(Exception, match="kind"):
        client.predict(None, "organ", kind="sing", api_name="/edit_music")
