"""Reading sound: every coding right, everything odd repaired and said, everything hostile refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import soundfile

from genmm.core.errors import LimitError, MediaError, ShapeError, UsageError
from genmm.core.limits import Limits
from genmm.media.audio import Audio, encode_audio_bytes, read_audio


def test_every_plain_wav_coding_is_exact(make):
    samples = make.tone(channels=2)
    steps = np.rint(samples.T * 2**15).astype("<i2")
    cases = {
        (8, 1): (np.rint(samples.T * 127 + 128).astype(np.uint8).tobytes(), 1 / 127),
        (16, 1): (steps.tobytes(), 1e-4),
        (24, 1): (b"".join(struct.pack("<i", int(v) << 8)[:3] for v in steps.ravel()), 1e-4),
        (32, 1): ((steps.astype("<i4") << 16).tobytes(), 1e-4),
        (32, 3): (samples.T.astype("<f4").tobytes(), 0.0),
        (64, 3): (samples.T.astype("<f8").tobytes(), 0.0),
    }
    for (bits, code), (data, error) in cases.items():
        audio = read_audio(make.wav(data, channels=2, bits=bits, code=code))
        assert audio.samples.shape == samples.shape and audio.sample_rate == 16000 and audio.notes == ()
        assert np.abs(audio.samples - samples).max() <= error, (bits, code)


LIBSNDFILE = """WAV ULAW, WAV ALAW, WAV IMA_ADPCM, WAV PCM_24, AIFF PCM_16, FLAC PCM_24, OGG VORBIS, OGG OPUS,
MP3 MPEG_LAYER_III, CAF PCM_16, W64 PCM_16, AU PCM_16, RF64 PCM_16, NIST PCM_16"""

FFMPEG = """mp4 aac, mov aac, matroska aac, webm libopus, mp3 libmp3lame, adts aac, ogg flac, mpegts aac, mp4 alac,
avi libmp3lame, wav pcm_s16le"""


@pytest.mark.parametrize(("form", "subtype"), [pair.split() for pair in LIBSNDFILE.split(",")])
def test_formats_of_libsndfile_are_read_whatever_their_name(make, tmp_path, form, subtype):
    samples = make.tone(seconds=1.0, rate=16000)
    soundfile.write(tmp_path / "sound.mp4", samples.T, 16000, format=form, subtype=subtype)
    audio = read_audio(tmp_path / "sound.mp4")
    assert audio.notes == ()
    assert audio.samples.shape[0] == 1 and abs(audio.seconds - 1.0) < 0.06
    middle = audio.mono().resampled(16000).samples[0, 4000:12000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(spectrum.argmax() * 16000 / len(middle) - 440) < 3
    assert 0.4 < np.abs(middle).max() < 0.62


@pytest.mark.parametrize(("form", "codec"), [pair.split() for pair in FFMPEG.split(",")])
def test_containers_of_ffmpeg_are_read(make, form, codec):
    samples = make.tone(seconds=1.0, rate=48000, channels=2)
    audio = read_audio(make.sound_file(samples, 48000, form, codec))
    assert audio.sample_rate == 48000 and audio.channels == 2 and abs(audio.seconds - 1.0) < 0.06
    for channel, hertz in enumerate((440, 550)):
        middle = audio.samples[channel, 12000:36000]
        assert abs(np.abs(np.fft.rfft(middle * np.hanning(24000))).argmax() * 2 - hertz) < 4


def test_an_mp4_named_wav_is_read_as_what_it_is(make, tmp_path):
    (tmp_path / "voice.wav").write_bytes(make.video(make.ramp_frames(), audio=make.tone(1.0, 48000)))
    audio = read_audio(tmp_path / "voice.wav", sample_rate=16000, mono=True)
    assert audio.sample_rate == 16000 and audio.channels == 1
    assert audio.samples.shape[1] == 16000


def test_aac_in_mp4_has_the_length_that_its_index_declares_in_milliseconds(make):
    for count in (1024, 5000, 48000, 48001):
        samples = make.tone(count / 48000, 48000)
        length = read_audio(make.sound_file(samples, 48000, "mp4", "aac")).samples.shape[1]
        assert abs(length - count) <= 48


def test_surround_mixes_down_and_keeps_its_order(make, tmp_path):
    samples = np.zeros((6, 4800), np.float32)
    samples[0] = 0.5  # front left alone
    for form, codec in (("wav", None), ("flac", None), ("matroska", "flac")):
        if codec:
            data = make.sound_file(samples, 48000, form, codec)
        else:
            data = encode_audio_bytes(samples, 48000, form)
        audio = read_audio(data)
        assert audio.channels == 6
        stereo = audio.stereo().samples
        assert stereo[0].mean() > 0.15 and np.abs(stereo[1]).max() == 0.0
        assert read_audio(data, mono=True).samples.shape[0] == audio.mono().samples.shape[0] == 1
        np.testing.assert_allclose(read_audio(data, mono=True).samples, audio.mono().samples, atol=1e-6)


def test_192_khz_is_read_and_converted(make):
    data = encode_audio_bytes(make.tone(0.5, 192000), 192000, "flac")
    assert read_audio(data).sample_rate == 192000
    assert read_audio(data, sample_rate=16000).samples.shape == (1, 8000)


def test_nan_and_infinity_become_silence_with_a_note(make):
    samples = make.tone()[0]
    samples[10], samples[20], samples[30] = np.nan, np.inf, -np.inf
    audio = read_audio(make.wav(samples.tobytes(), bits=32, code=3))
    assert np.isfinite(audio.samples).all()
    assert (audio.samples[0, [10, 20, 30]] == 0).all() and audio.samples[0, 11] == samples[11]
    assert any("3 of 8000 samples were not finite" in note for note in audio.notes)


def test_mostly_nan_is_an_error(make):
    with pytest.raises(MediaError, match="finite"):
        read_audio(make.wav(np.full(100, np.nan, "<f4").tobytes(), bits=32, code=3))


def test_float_files_in_16_bit_steps_are_scaled_and_headroom_is_kept(make):
    samples = make.tone()[0]
    loud = read_audio(make.wav((samples * 32768).tobytes(), bits=32, code=3))
    assert np.abs(loud.samples).max() == pytest.approx(1.0) and "scaled down" in loud.notes[0]
    above = read_audio(make.wav((samples * 8).tobytes(), bits=32, code=3))
    assert np.abs(above.samples).max() == pytest.approx(4.0, rel=1e-3) and above.notes == ()


def test_no_samples_is_an_error(make):
    for data in (b"", b"\0"):
        with pytest.raises(MediaError, match="no sound samples"):
            read_audio(make.wav(data))


@pytest.mark.parametrize("header", [{"channels": 0}, {"rate": 0}, {"bits": 0}, {"code": 0x1234}])
def test_headers_that_mean_nothing_are_errors(make, header):
    with pytest.raises(MediaError):
        read_audio(make.wav(b"\1\2" * 800, **header))


def test_a_header_that_claims_4_gib_costs_no_memory_and_gives_what_is_there(make):
    audio = read_audio(make.wav(make.int16(make.tone(0.05)), claimed=0xFFFFFFF0))
    assert audio.samples.shape == (1, 800)
    assert any("cut off" in note for note in audio.notes)


@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3"])
def test_a_cut_off_file_gives_its_beginning_and_says_so(make, form):
    samples = make.tone(2.0, 16000) + np.random.default_rng(0).normal(0, 0.05, (1, 32000)).astype(np.float32)
    data = encode_audio_bytes(samples, 16000, form)
    audio = read_audio(data[: len(data) // 2])
    assert 0.3 < audio.seconds < 1.7
    assert audio.notes, f"{form}: nothing was said"


def test_cut_off_mp4_with_its_index_in_front_gives_its_beginning_and_says_so(make):
    data = make.video(
        make.ramp_frames(40), audio=make.tone(4.0, 48000), container_options={"movflags": "faststart"}, fps=10
    )
    audio = read_audio(data[: int(len(data) * 0.6)])
    assert 0.2 < audio.seconds < 3.9 and any("incomplete" in note for note in audio.notes)


def test_damage_in_the_middle_keeps_the_sound_after_it_in_place(make):
    samples = np.zeros((1, 96000), np.float32)
    samples[:, 84000:] = make.tone(0.25, 48000)
    data = bytearray(make.sound_file(samples, 48000, "mp4", "aac"))
    start = data.index(b"mdat") + 200
    data[start : start + 150] = b"\xff" * 150
    audio = read_audio(bytes(data))
    loud = np.flatnonzero(np.abs(audio.samples[0]) > 0.2)
    assert abs(loud[0] - 84000) < 3000, "within 60 ms"


def test_sound_that_begins_after_the_picture_is_preceded_by_silence(make):
    import io
    from fractions import Fraction

    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as out:
        picture = out.add_stream("libx264", rate=10)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        for i, image in enumerate(make.ramp_frames(20)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i
            out.mux(picture.encode(frame))
        out.mux(picture.encode(None))
        steps = np.rint(make.tone(1.0) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(steps, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 12000, Fraction(1, 16000)
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    audio = read_audio(stream.getvalue())
    assert audio.samples.shape[1] == 28000 and any("0.75 s after" in note for note in audio.notes)
    assert (audio.samples[0, :12000] == 0).all() and np.abs(audio.samples[0, 12001:12100]).min() > 0


def test_limits_hold_on_what_is_decoded(make):
    flac = encode_audio_bytes(np.zeros((2, 48000 * 20), np.float32), 48000, "flac")
    assert len(flac) < 20000, "a small file that unfolds"
    for limits in (Limits(audio_s=19.9), Limits(sample_rate=47999), Limits(audio_channels=1), Limits(decode_s=1e-6)):
        with pytest.raises(LimitError):
            read_audio(flac, limits=limits)
    with pytest.raises(LimitError, match="bytes"):
        read_audio(flac, limits=Limits(file_bytes=20000))  # 200 kB of memory
    assert read_audio(flac, limits=Limits(audio_s=20)).seconds == 20


def test_limits_hold_in_containers_too(make):
    data = make.sound_file(make.tone(4.0, 48000, 2), 48000, "mp4", "aac")
    for limits in (Limits(audio_s=3.9), Limits(sample_rate=44100), Limits(audio_channels=1), Limits(file_bytes=20000)):
        with pytest.raises(LimitError):
            read_audio(data, limits=limits)


def test_more_channels_than_the_limit_are_refused(make):
    with pytest.raises(LimitError, match="channels"):
        read_audio(make.wav(b"\0" * 9 * 2 * 100, channels=9))


def test_a_video_without_sound_says_so(make):
    with pytest.raises(MediaError, match="no sound"):
        read_audio(make.video(make.ramp_frames()))


def test_rates_are_checked(make):
    for rate in (0, -1, 16000.5, True):
        with pytest.raises(UsageError):
            read_audio(make.wav(make.int16(make.tone())), sample_rate=rate)


def test_audio_objects_check_themselves_and_cut_parts(make):
    audio = Audio(make.tone(1.0), 16000)
    assert audio.part(0.25, 0.75).seconds == 0.5 and audio.part(0.5, 9.0).seconds == 0.5
    for start_s, end_s in ((1.0, 2.0), (0.5, 0.5), (0.7, 0.2)):
        with pytest.raises(UsageError):
            audio.part(start_s, end_s)
    for wrong in (np.zeros(4, np.float32), np.zeros((1, 0), np.float32), np.zeros((1, 4))):
        with pytest.raises(ShapeError):
            Audio(wrong, 16000)
