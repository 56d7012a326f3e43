"""Every strange or broken file of the shared collection: a sane result or one of our errors, soon."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from genmm.core.errors import GenmmError, LimitError
from genmm.media.audio import Audio, read_audio
from genmm.media.image import read_image
from genmm.media.tag_reader import read_tags
from genmm.media.video import Video, iter_frames, probe, read_video

WORK_S = 10.0


@pytest.fixture(scope="session")
def odd_media(shared_data) -> dict[str, Path]:
    folder = shared_data / "odd_media"
    if not folder.is_dir():
        pytest.skip("needs the folder odd_media of the shared media")
    return {path.name: path for path in sorted(folder.iterdir()) if path.suffix != ".tsv"}


def read_all(path: Path) -> dict[str, object]:
    results: dict[str, object] = {}
    readers = {"audio": read_audio, "video": read_video, "image": read_image, "probe": probe, "tags": read_tags}
    for name, reader in readers.items():
        begin = time.thread_time()
        try:
            results[name] = reader(path)
        except GenmmError as error:
            results[name] = error
            assert str(error) and str(path.parent) not in str(error)
        assert time.thread_time() - begin < WORK_S, f"{path.name}: {name}"
    return results


def test_every_file_gives_a_sane_result_or_an_error(odd_media):
    for name, path in odd_media.items():
        results = read_all(path)
        audio, video, image = results["audio"], results["video"], results["image"]
        if isinstance(audio, Audio):
            assert np.isfinite(audio.samples).all() and 0 < audio.samples.size < 10_000_000, name
            assert np.abs(audio.samples).max() <= 4, name
        if isinstance(video, Video):
            assert video.frames.ndim == 4 and video.frames.dtype == np.uint8 and len(video.frames) == len(video.times_s)
            assert (np.diff(video.times_s) > 0).all() and 0 < video.fps <= 240, name
            assert video.seconds < 30, name
        if isinstance(image, np.ndarray):
            assert image.ndim == 3 and image.shape[2] == 3, name


def test_the_silent_traps(odd_media):
    if not {"nan_inf_f32.wav", "truncated_moov_front.mp4", "wav_claims_4gib.wav"} <= odd_media.keys():
        pytest.skip("needs the complete folder odd_media")
    assert any("finite" in note for note in read_audio(odd_media["nan_inf_f32.wav"]).notes)
    assert any("incomplete" in note for note in read_video(odd_media["truncated_moov_front.mp4"]).notes)
    assert any("cut off" in note for note in read_audio(odd_media["wav_claims_4gib.wav"]).notes)
    assert any("incomplete" in note for note in read_audio(odd_media["truncated.mp3"]).notes)
    assert any("cut off" in note for note in read_audio(odd_media["truncated.ogg"]).notes)
    assert any("damaged" in note for note in read_video(odd_media["bitflips.mp4"]).notes)
    with pytest.raises(GenmmError, match="no sound samples"):
        read_audio(odd_media["wav_no_samples.wav"])
    with pytest.raises(LimitError):
        read_image(odd_media["huge_dimensions_header.png"])


def test_what_a_player_would_show(odd_media):
    if "rotated90_tag.mp4" not in odd_media:
        pytest.skip("needs the complete folder odd_media")
    upright = read_video(odd_media["base_ok.mp4"], max_side=64).frames
    turned = read_video(odd_media["rotated90_tag.mp4"], max_side=64).frames
    assert np.abs(np.rot90(upright, 1, axes=(1, 2)).astype(int) - turned).mean() < 3
    assert probe(odd_media["video_270.mov"]).video.height > probe(odd_media["video_270.mov"]).video.width
    late = read_audio(odd_media["audio_offset_0p8s.mp4"])
    assert np.abs(late.samples[:, : int(0.7 * late.sample_rate)]).max() == 0.0
    assert len(list(iter_frames(odd_media["fps120.mp4"], fps=10))) == 20
    assert read_audio(odd_media["mp4_named.wav"]).seconds == pytest.approx(3.0, abs=0.01)
