"""Spectra in the forward-looking convention."""

import pytest
import torch

from genmm.nn.spectral import LogMel, OverlapAddSynthesis, mel_filterbank


def test_the_mel_filterbank_equals_torchaudio_up_to_its_scale():
    from torchaudio.functional import melscale_fbanks

    theirs = melscale_fbanks(513, 0.0, 8000.0, 40, 16000, norm="slaney", mel_scale="htk").T
    ours = mel_filterbank(40, 1024, 16000)
    torch.testing.assert_close(ours / (16000 / 1024), theirs, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("samples", [1, 160, 161, 4000])
def test_log_mel_gives_one_frame_a_hop_and_ignores_what_lies_past_the_window(samples):
    mel = LogMel(16000, 1024, 160, 80, shift=192)
    frames = mel(torch.randn(2, samples))
    assert frames.shape == (2, -(-samples // 160), 80) and frames.isfinite().all()


def test_analysis_then_synthesis_gives_the_waveform_back_after_the_fade_in():
    synthesis = OverlapAddSynthesis(640, 160)
    waveform = torch.randn(1, 6400)
    frames = waveform.unfold(1, 640, 160) * torch.hann_window(640)
    output = synthesis.overlap_add(torch.fft.rfft(frames))
    torch.testing.assert_close(output[:, 480:-480], waveform[:, 480:-480], atol=1e-5, rtol=1e-4)


def test_synthesis_in_pieces_equals_synthesis_at_once():
    synthesis = OverlapAddSynthesis(640, 160)
    spectrum = torch.randn(2, 9, 321, dtype=torch.complex64)
    tail, pieces = torch.zeros(2, synthesis.tail_samples), []
    for part in spectrum.split([1, 2, 6], dim=1):
        samples, tail = synthesis.step(part, tail)
        pieces.append(samples)
    torch.testing.assert_close(torch.cat(pieces, dim=1), synthesis(spectrum), atol=1e-6, rtol=1e-5)


def test_a_window_that_is_no_multiple_of_the_hop_is_refused():
    with pytest.raises(ValueError, match="multiple"):
        OverlapAddSynthesis(650, 160)


def test_autocast_does_not_change_the_mel_spectrum():
    torch.manual_seed(0)
    mel, sound = LogMel(16000, 256, 64, 20, 0), 0.1 * torch.randn(1, 4000)
    with torch.autocast("cpu", torch.bfloat16):
        cast = mel(sound)
    assert cast.dtype == torch.float32 and torch.equal(cast, mel(sound))
