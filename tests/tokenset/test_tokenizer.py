"""The set tokenizer: order-free, of several sizes, on the released layout and on ours."""

import pytest
import torch

from genmm.core.errors import CheckpointError, ConfigError, ShapeError, UsageError
from genmm.quantizers.codebook import SphereCodebook, Usage
from genmm.systems.tokenset.checkpoint import load_tokenizer, save_tokenizer
from genmm.systems.tokenset.config import SetTokenizerConfig
from genmm.systems.tokenset.tokenizer import SetTokenizer


def test_the_order_of_tokens_changes_nothing(pipeline):
    tokenizer = pipeline.tokenizer
    tokens = torch.randint(0, 32, (3, 8), generator=torch.Generator().manual_seed(0))
    made = tokenizer.decode(tokens)
    assert float(made.std()) > 0.01
    for order in (tokens.flip(1), tokens.sort(1).values, tokens[:, torch.randperm(8)]):
        assert float((tokenizer.decode(order) - made).abs().max()) < 1e-4


def test_sets_of_different_sizes_decode_together_as_alone(pipeline):
    tokens = torch.randint(0, 32, (2, 8), generator=torch.Generator().manual_seed(1))
    keep = torch.tensor([[True] * 8, [True] * 4 + [False] * 4])
    together = pipeline.tokenizer.decode(tokens, keep)
    torch.testing.assert_close(together[1:], pipeline.tokenizer.decode(tokens[1:, :4]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [4, 8, 16])
def test_one_tokenizer_makes_sets_of_many_sizes(pipeline, size):
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    tokens = pipeline.tokenizer.encode(images, size)
    assert tokens.shape == (2, size)
    assert pipeline.tokenizer.decode(tokens).shape == images.shape


def test_what_does_not_fit_is_refused(pipeline):
    images = torch.zeros(1, 3, 16, 16)
    with pytest.raises(UsageError, match="1 to 16 tokens, got 17"):
        pipeline.tokenizer.encode(images, 17)
    with pytest.raises(ShapeError, match="16, 16"):
        pipeline.tokenizer.encode(torch.zeros(1, 3, 8, 8))
    for bad in ({"tokens": 600, "codes": 512}, {"image_size": 60}, {"heads": 7}, {"patch_size": 8}):
        with pytest.raises(ConfigError):
            SetTokenizerConfig(**bad)
    with pytest.raises(ConfigError, match="legacy"):
        SetTokenizerConfig(sizes=(32, 128))


def test_a_folder_gives_the_same_tokenizer_back(pipeline, tmp_path):
    folder = save_tokenizer(pipeline.tokenizer, tmp_path / "one")
    again = load_tokenizer(folder)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(again.encode(images), pipeline.tokenizer.encode(images))
    (folder / "config.json").write_text('{"format_version": 1, "system": "tokenset"}')
    with pytest.raises(CheckpointError):
        load_tokenizer(folder)


def test_gradients_reach_the_encoder_through_the_codes():
    config = SetTokenizerConfig(
        image_size=16, patch_size=4, tokens=4, codes=16, code_width=4, width=32, depth=1, heads=2, features=8,
        pixels="maskgit", channel_mult=(1, 1, 1), pixel_channels=32, res_blocks=1, legacy_mixing=False,
    )  # fmt: skip
    tokenizer = SetTokenizer(config)
    found = tokenizer.quantised(torch.rand(2, 3, 16, 16))
    (tokenizer.decode_codes(found.codes).square().mean() + found.loss).backward()
    assert tokenizer.latent_tokens.grad.abs().max() > 0
    assert tokenizer.quantize.embedding.weight.grad is None


def test_codes_move_to_their_data_and_dead_ones_come_back():
    torch.manual_seed(0)
    book = SphereCodebook(8, 3, decay=0.8)
    book.embedding.weight.normal_()
    book.restart_averages()
    centres = torch.nn.functional.normalize(torch.randn(2, 3), dim=-1)
    data = torch.nn.functional.normalize(centres.repeat(64, 1) + 0.01 * torch.randn(128, 3), dim=-1)
    for _ in range(40):
        book(data)
    assert len(book.nearest(data).unique()) <= 4
    dead = book.mass < 0.02 * book.mass.mean()
    assert bool(dead.any())
    assert book.revive(data, 0.02) == int(dead.sum())
    assert not bool((book.mass < 0.02 * book.mass.mean()).any())  # the averages began anew
    torch.testing.assert_close(book.sums[dead], book.embedding.weight[dead] * book.mass[dead][:, None])
    assert float((book.lookup(book.nearest(data)) - data).norm(dim=-1).mean()) < 0.05
    assert float(book(data).loss) < 0.01


def _train_a_rank(rank: int, folder: str) -> None:
    """One of two processes: its own data, its own seed; writes the codebook that it ends with."""
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(rank)
    book = SphereCodebook(16, 4, decay=0.2)
    data = torch.randn(64, 4) + 3.0 * rank
    book.start_from(data)
    for _ in range(5):
        book(data)
    revived = book.revive(data, 0.5)
    torch.save({**book.state_dict(), "mass": book.mass, "sums": book.sums, "revived": revived}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_codebooks_of_several_processes_stay_equal(tmp_path):
    torch.multiprocessing.spawn(_train_a_rank, (str(tmp_path),), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one["revived"] == other["revived"] > 0
    for name in ("embedding.weight", "mass", "sums"):
        torch.testing.assert_close(one[name], other[name], atol=0, rtol=0)


def test_usage_of_a_codebook():
    assert Usage.of(torch.tensor([5, 5, 0, 0])) == Usage(used=0.5, entropy=0.5, dead=0.5)
    assert Usage.of(torch.zeros(4)).dead == 1.0
