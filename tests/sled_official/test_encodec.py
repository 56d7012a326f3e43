"""EnCodec against transformers' EncodecModel, and its streams against its whole-signal decode."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from genmm.core.errors import CheckpointError, ConfigError, ShapeError
from genmm.systems.sled import encodec as encodec_module
from genmm.systems.sled.encodec import EncodecConfig, EncodecLatents
from genmm.systems.sled.encodec_layers import SkipLSTM
from genmm.systems.sled.latents import LatentCodec

SIZES = {
    "hop 320": {"num_filters": 2, "hidden_size": 8, "codebook_size": 32, "upsampling_ratios": [8, 5, 4, 2]},
    "two blocks, no shortcut": {
        "num_filters": 4,
        "hidden_size": 6,
        "codebook_size": 8,
        "upsampling_ratios": [3, 2],
        "num_residual_layers": 2,
        "num_lstm_layers": 1,
        "use_conv_shortcut": False,
        "target_bandwidths": [24.0, 48.0],
        "kernel_size": 5,
        "last_kernel_size": 3,
    },
}


@pytest.fixture(scope="module", params=SIZES.values(), ids=SIZES)
def official(request):
    """A random EncodecModel of transformers, tiny."""
    transformers = pytest.importorskip("transformers", reason="the oracle is transformers' EncodecModel")
    torch.manual_seed(5)
    model = transformers.EncodecModel(transformers.EncodecConfig(**request.param)).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("embed"):
            buffer.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def codec(official):
    bandwidth = official.config.target_bandwidths[-1]
    return EncodecLatents.from_tensors(official.config.to_dict(), official.state_dict(), bandwidth=bandwidth)


def test_it_is_a_latent_codec(codec):
    assert isinstance(codec, LatentCodec)
    assert codec.frame_rate == codec.sample_rate / codec.hop_samples


@pytest.mark.parametrize("samples", [1, 2, 7, 19, 319, 320, 321, 4000])
def test_codes_and_waveforms_equal_transformers(official, codec, samples):
    waveform = torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
    with torch.no_grad():
        codes = official.encode(waveform[:, None], None, codec.bandwidth).audio_codes[0]
        latents = official.quantizer.decode(codes.transpose(0, 1))
        decoded = official.decoder(latents)[:, 0]
    assert torch.equal(codec.codes(waveform), codes)
    torch.testing.assert_close(codec.encode(waveform), latents.transpose(1, 2), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(codec.decode(latents.transpose(1, 2)), decoded, atol=1e-6, rtol=1e-4)


def test_bandwidth_chooses_the_first_codebooks(official):
    for bandwidth in official.config.target_bandwidths:
        codec = EncodecLatents.from_tensors(official.config.to_dict(), official.state_dict(), bandwidth=bandwidth)
        codes = official.encode(torch.ones(1, 1, 400), None, bandwidth).audio_codes
        assert codec.codes(torch.ones(1, 400)).shape[1] == codes.shape[2] == codec.codebooks_used


def test_padding_a_batch_changes_no_whole_frame(official, codec):
    hop = codec.hop_samples
    lengths = torch.tensor([20 * hop, 12 * hop + hop // 3])
    waveform = torch.randn(2, 20 * hop, generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(20 * hop) < lengths[:, None]).long()
    with torch.no_grad():
        codes = official.encode(waveform[:, None], mask, codec.bandwidth).audio_codes[0]
    together = codec.codes(waveform, lengths)
    assert torch.equal(together, codes)
    alone = codec.codes(waveform[1:, : lengths[1]])
    assert alone.shape[2] == 13  # the last frame is partial: zeros follow it in the batch, its mirror image alone
    assert torch.equal(together[1:, :, :12], alone[:, :, :12])


@pytest.mark.parametrize("pieces", [[1] * 20, [3, 0, 2, 15], [20], [6, 1, 13], [7, 13], [4], [1, 2]])
def test_stream_equals_decode(codec, pieces):
    latents = torch.randn(3, sum(pieces), codec.channels, generator=torch.Generator().manual_seed(2))
    stream = codec.stream(batch=3)
    parts = [stream.push(piece) for piece in latents.split(pieces, dim=1)]
    seen, warm = 0, stream.warmup_frames
    for part, count in zip(parts, pieces, strict=True):
        before, seen = (seen if seen >= warm else 0), seen + count
        assert part.shape == (3, (seen - before) * codec.hop_samples if seen >= warm else 0)
    torch.testing.assert_close(torch.cat([*parts, stream.flush()], 1), codec.decode(latents), atol=1e-6, rtol=1e-5)
    assert stream.flush().shape == (3, 0)


def test_warm_up_is_as_short_as_it_can_be(codec):
    """The first samples depend on the last warm-up latent and on nothing after it."""
    warm = codec.stream().warmup_frames
    latents = torch.randn(1, warm + 3, codec.channels, generator=torch.Generator().manual_seed(3))
    first = codec.decode(latents)[:, : codec.hop_samples]
    for frame, depends in [(warm - 1, True), (warm, False)]:
        changed = latents.clone()
        changed[:, frame] += 1.0
        same = torch.allclose(codec.decode(changed)[:, : codec.hop_samples], first, atol=1e-6)
        assert same is not depends


def test_full_size_warm_up_is_seven_latents():
    with torch.device("meta"):
        assert EncodecLatents(EncodecConfig()).stream().warmup_frames == 7
        assert EncodecLatents(EncodecConfig()).codebooks_used == 8


def test_long_signals_are_processed_in_blocks_without_a_seam(codec, monkeypatch):
    waveform = torch.randn(1, 50 * codec.hop_samples + 3, generator=torch.Generator().manual_seed(4))
    frames, decoded = codec.encoder_frames(waveform), codec.decode(codec.encode(waveform))
    monkeypatch.setattr(encodec_module, "BLOCK_FRAMES", 12)
    torch.testing.assert_close(codec.encoder_frames(waveform), frames, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(codec.decode(codec.encode(waveform)), decoded, atol=1e-6, rtol=1e-5)


@pytest.mark.gpu
def test_gpu_agrees_with_cpu_and_streams_exactly(official, codec):
    bandwidth, hop = codec.bandwidth, codec.hop_samples
    on_gpu = EncodecLatents.from_tensors(official.config.to_dict(), official.state_dict(), bandwidth=bandwidth).cuda()
    waveform = torch.randn(2, 40 * hop, generator=torch.Generator().manual_seed(8))
    torch.testing.assert_close(
        on_gpu.encoder_frames(waveform).cpu(), codec.encoder_frames(waveform), atol=1e-5, rtol=1e-4
    )
    latents = codec.encode(waveform)
    whole = on_gpu.decode(latents)
    torch.testing.assert_close(whole.cpu(), codec.decode(latents), atol=1e-5, rtol=1e-4)
    stream = on_gpu.stream(batch=2)
    parts = [stream.push(frame.cuda()) for frame in latents.split(1, dim=1)]
    torch.testing.assert_close(torch.cat([*parts, stream.flush()], dim=1), whole, atol=1e-5, rtol=1e-4)


def test_lstm_cell_by_cell_equals_the_fused_one(codec):
    layer = next(module for module in codec.modules() if isinstance(module, SkipLSTM))
    steps = torch.randn(9, 2, layer.lstm.input_size, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        for state in (None, layer.lstm(steps)[1]):
            torch.testing.assert_close(layer._by_cells(steps, state), layer.lstm(steps, state), atol=1e-6, rtol=1e-5)


def test_old_weight_norm_names_load_alike(official, codec):
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in official.state_dict().items()
    }
    other = EncodecLatents.from_tensors(official.config.to_dict(), old, bandwidth=codec.bandwidth)
    for name, value in codec.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_folders_of_both_kinds_load(official, codec, tmp_path):
    waveform = torch.randn(1, 1000, generator=torch.Generator().manual_seed(6))
    (tmp_path / "official").mkdir()
    save_file({k: v.contiguous() for k, v in official.state_dict().items()}, tmp_path / "official/model.safetensors")
    (tmp_path / "official/config.json").write_text(json.dumps(official.config.to_dict()))
    codec.save(tmp_path / "ours")
    again = EncodecLatents.from_folder(tmp_path / "ours")
    assert torch.equal(again.codes(waveform), codec.codes(waveform))
    assert again.codes(waveform).shape[1] == codec.codebooks_used
    assert EncodecLatents.from_folder(tmp_path / "official").decode(again.encode(waveform)).shape[1] >= 1000


def test_damaged_weights_are_named(official):
    tensors = dict(official.state_dict())
    tensors.pop("decoder.layers.0.conv.parametrizations.weight.original0")
    with pytest.raises(CheckpointError, match=r"original1 needs .*original0"):
        EncodecLatents.from_tensors(official.config.to_dict(), tensors)
    with pytest.raises(CheckpointError, match="codebooks"):
        EncodecLatents.from_tensors(official.config.to_dict(), {"a": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"encoder\.layers\.0\.conv\.bias"):
        bias = "encoder.layers.0.conv.bias"
        EncodecLatents.from_tensors(
            official.config.to_dict(), {k: v for k, v in official.state_dict().items() if k != bias}
        )


@pytest.mark.parametrize(
    "field", [{"norm_type": "time_group_norm"}, {"use_causal_conv": False}, {"audio_channels": 2}, {"num_filters": 0}]
)
def test_other_kinds_of_encodec_are_refused(field):
    with pytest.raises(ConfigError, match=next(iter(field))):
        EncodecConfig.from_official({"model_type": "encodec", **field})


def test_wrong_shapes_are_refused(codec):
    with pytest.raises(ShapeError, match=r"\[B, S\]"):
        codec.encode(torch.zeros(10))
    with pytest.raises(ShapeError, match="got"):
        codec.decode(torch.zeros(1, 4, codec.channels + 1))
    with pytest.raises(ShapeError, match="got"):
        codec.stream(2).push(torch.zeros(1, 4, codec.channels))


def test_stored_cases_of_the_original(parity_dirs):
    """Codes exactly, waveforms within the tolerance of each case, offline and frame by frame."""
    cases = [(path, json.loads(path.read_text())) for folder in parity_dirs for path in folder.rglob("case_*.json")]
    cases = [(path, case) for path, case in cases if (case.get("system"), case.get("kind")) == ("sled", "codec")]
    if not cases:
        pytest.skip("needs reference cases of kind codec: give --parity-dir DIR")
    for path, case in cases:
        data = load_file(path.with_suffix(".safetensors"))
        weights = {name[2:]: value for name, value in data.items() if name.startswith("w.")}
        codec = EncodecLatents.from_tensors(case["config"], weights, bandwidth=case["config"]["bandwidth"])
        waveform, lengths = data["input_values"][:, 0], data["padding_mask"].sum(1)
        close = {"atol": case["tolerance"]["atol"], "rtol": case["tolerance"]["rtol"]}
        torch.testing.assert_close(codec.encoder_frames(waveform, lengths), data["encoder_out"], **close)
        assert torch.equal(codec.codes(waveform, lengths), data["audio_codes"])
        torch.testing.assert_close(codec.encode(waveform, lengths), data["latents"], **close)
        for latents, decoded in [("latents", "decoded"), ("perturbed_latents", "decoded_perturbed")]:
            torch.testing.assert_close(codec.decode(data[latents]), data[decoded][:, 0], **close)
            stream = codec.stream(batch=len(waveform))
            parts = [stream.push(frame) for frame in data[latents].split(1, dim=1)]
            torch.testing.assert_close(torch.cat([*parts, stream.flush()], dim=1), data[decoded][:, 0], **close)
