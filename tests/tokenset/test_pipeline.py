"""The image pipeline: drawing, sets and pictures, edits, results."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import genmm
from genmm.core.errors import Cancelled, CheckpointError, LimitError, MediaError, ShapeError, UsageError
from genmm.core.events import CancelToken, Finished, Progress
from genmm.core.limits import Limits
from genmm.core.results import read_recipe
from genmm.media.tag_reader import read_tags
from genmm.quantizers.multiset import TokenSet
from genmm.systems.tokenset.pipeline import TokenSetPipeline
from genmm.systems.tokenset.request import PictureRequest, PictureSettings


def test_the_same_seed_draws_the_same_picture(pipeline):
    one = pipeline.generate("red heart", labels={"style": "noto"}, seed=3)
    again = pipeline.generate("red heart", labels={"style": "noto"}, seed=3)
    other = pipeline.generate("red heart", labels={"style": "noto"}, seed=4)
    assert one.sets == again.sets
    assert np.array_equal(one.images[0], again.images[0])
    assert one.sets != other.sets
    assert len(one.sets[0]) == 8
    assert one.images[0].shape == (16, 16, 3)


def test_each_picture_of_several_can_be_made_alone(pipeline):
    several = pipeline.generate("red heart", count=3, seed=5)
    assert len(set(several.seeds)) == 3
    assert pipeline.generate("red heart", seed=several.seeds[2]).sets[0] == several.sets[2]


def test_a_batch_gives_what_single_calls_give(pipeline):
    requests = [
        PictureRequest(text="red heart", seed=1),
        PictureRequest(labels={"style": "twemoji"}, seed=2, count=2),
        PictureRequest(text="  ", seed=3),
        PictureRequest(text="flag", seed=4, settings={"steps": 3, "engine": "repair"}),
    ]
    results = pipeline.generate_batch(requests, batch_size=2, errors="return")
    assert isinstance(results[2], UsageError)
    for number in (0, 1, 3):
        own = requests[number]
        alone = pipeline.generate(own.text, labels=own.labels, count=own.count, seed=own.seed, settings=own.settings)
        assert results[number].sets == alone.sets
        assert results[number].seeds == alone.seeds
    with pytest.raises(UsageError):
        pipeline.generate_batch(requests)


@pytest.mark.parametrize("engine", ["exact", "repair", "official"])
def test_every_engine_draws(pipeline, engine):
    result = pipeline.generate("red heart", seed=1, settings={"engine": engine, "top_p": 0.9, "guidance": "2_3"})
    assert result.settings["engine"] == engine
    assert len(result.sets[0]) == 8
    assert bool(result.notes) <= (engine == "official")


def test_events_tell_the_steps_and_a_cancel_ends_them(pipeline):
    events = list(pipeline.events("red heart", seed=1))
    assert [event.done for event in events[:-1]] == [1, 2, 3, 4]
    assert isinstance(events[-1], Finished)
    token, seen = CancelToken(), []
    with pytest.raises(Cancelled):
        for event in pipeline.events("red heart", seed=1, cancel=token):
            assert isinstance(event, Progress)
            seen.append(event)
            token.cancel()
    assert len(seen) == 1


def test_style_words_in_the_text_set_the_label(pipeline):
    by_text = pipeline.generate("red heart, twemoji style emoji", seed=1)
    by_label = pipeline.generate("red heart", labels={"style": "Twemoji"}, seed=1)
    assert by_text.sets == by_label.sets
    assert by_text.settings["read_as"] == {"text": "red heart", "labels": {"style": "twemoji"}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": " "}, "empty"),
        ({"labels": {"style": "notto"}}, "did you mean noto"),
        ({"labels": {"class": "5"}}, "no label 'class'"),
        ({"labels": ["noto"]}, "by name"),
        ({"count": 0}, "count"),
        ({"count": 2, "seeds": (1, 2, 3)}, "3 seeds for 2"),
        ({"seed": -1}, "seed"),
        ({"settings": {"steps": 0}}, "steps"),
        ({"settings": {"colour": 1}}, "unknown picture settings"),
        ({"settings": {"guidance": "much"}}, "guidance"),
        ({"settings": {"temperature": "hot"}}, "number"),
        ({"settings": {"process": "exchangeable"}}, "trained with the noise process gaussian"),
    ],
)
def test_wishes_that_cannot_be_are_explained(pipeline, arguments, message):
    with pytest.raises(UsageError, match=message):
        pipeline.generate(**arguments)


def test_a_class_model_takes_its_class_as_text(tiny_parts):
    tiny_network, tiny_tokenizer = tiny_parts

    network = tiny_network(labels={"class": ("0", "1", "2")}, text_rows=0)
    classes = TokenSetPipeline(tiny_tokenizer(), network, defaults=PictureSettings(steps=2))
    assert classes.generate("2", seed=1).sets == classes.generate(labels={"class": "2"}, seed=1).sets
    with pytest.raises(UsageError, match="it knows: 0, 1, 2"):
        classes.generate("cat")


# ---------------------------------------------------------------- pictures and sets


def test_pictures_of_any_kind_become_sets(pipeline, picture, tmp_path):
    path = tmp_path / "one.png"
    Image.fromarray(picture).save(path)
    stream = io.BytesIO(path.read_bytes())
    kinds = [picture, str(path), path, stream, Image.fromarray(picture), torch.from_numpy(picture)]
    sets = pipeline.tokenize(kinds)
    assert len(set(sets)) == 1
    assert len(sets[0]) == 8
    assert [len(one) for one in pipeline.tokenize([picture], 16)] == [16]


def test_awkward_pictures(pipeline, picture, tmp_path):
    base = Image.fromarray(picture)
    files = {
        "cmyk.jpg": base.convert("CMYK"), "alpha.png": base.convert("RGBA"), "grey.png": base.convert("L"),
        "palette.gif": base.convert("P"), "one.bmp": base.resize((1, 1)),
    }  # fmt: skip
    for name, image in files.items():
        image.save(tmp_path / name)
    Image.fromarray(picture[..., 0].astype(np.uint16) << 8).save(tmp_path / "deep.png")
    base.save(tmp_path / "moving.gif", save_all=True, append_images=[base.rotate(90)] * 3)
    turned = base.getexif()
    turned[0x0112] = 6
    base.save(tmp_path / "turned.jpg", exif=turned)
    names = [*files, "deep.png", "moving.gif", "turned.jpg"]
    assert all(len(one) == 8 for one in pipeline.tokenize([tmp_path / name for name in names]))


def test_awkward_pictures_look_as_they_should(pipeline, picture, tmp_path):
    """Files and Pillow pictures alike: upright, on white, the first frame, all sixteen bits."""
    square = picture[:, 4:28]  # the middle square is read
    base = Image.fromarray(square)
    clear = Image.fromarray(np.dstack([np.zeros_like(square), np.zeros((24, 24, 1), np.uint8)]), "RGBA")
    ramp = np.linspace(0, 65535, 24 * 24).astype(np.uint16).reshape(24, 24)
    turned = base.getexif()
    turned[0x0112] = 6
    base.save(tmp_path / "turned.png", exif=turned)
    clear.save(tmp_path / "clear.png")
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    black = Image.new("RGB", (24, 24))
    black.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (24, 24), (255, 255, 255))])
    base.convert("CMYK").save(tmp_path / "cmyk.tif")
    small = pipeline.image_size
    eight = np.rint(ramp / 257.0).astype(np.uint8)[..., None].repeat(3, -1)
    expected = {
        "turned.png": np.rot90(square, -1), "clear.png": np.full_like(square, 255), "deep.png": eight,
        "moving.gif": np.zeros_like(square), "cmyk.tif": square,
    }  # fmt: skip
    for name, pixels in expected.items():
        wanted = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((small, small), Image.LANCZOS))
        for source in (tmp_path / name, Image.open(tmp_path / name)):
            found = pipeline.read(source).astype(int)
            assert np.abs(found - wanted).max() <= 2, (name, type(source))


def test_broken_pictures_are_refused(pipeline, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (tmp_path / "text.png").write_text("no picture")
    for name in ("bad.png", "text.png", "missing.png"):
        with pytest.raises(MediaError):
            pipeline.tokenize([tmp_path / name])
    Image.new("RGB", (400, 400)).save(tmp_path / "large.png")
    small = TokenSetPipeline(pipeline.tokenizer, limits=Limits(image_pixels=10_000))
    with pytest.raises(LimitError):
        small.tokenize([tmp_path / "large.png"])
    with pytest.raises(UsageError, match="tokenizer alone"):
        small.generate("heart")


def test_sets_decode_from_any_form(pipeline, picture):
    own = pipeline.tokenize([picture])[0]
    whole = pipeline.decode([own])[0]
    shuffled = pipeline.decode([list(own)[::-1]])[0]
    by_counts = pipeline.decode(own.counts[None])[0]
    assert np.abs(whole.astype(int) - shuffled).max() <= 1
    assert np.array_equal(whole, by_counts)
    mixed = pipeline.decode([own, TokenSet.from_tokens(list(own)[:4], 32)])
    assert np.abs(mixed[0].astype(int) - whole).max() <= 1


def test_what_cannot_be_decoded_is_refused(pipeline):
    for bad in ([], [32], [0] * 17):
        with pytest.raises(UsageError):
            pipeline.decode([bad])
    with pytest.raises(ShapeError):
        pipeline.decode(torch.zeros(1, 31, dtype=torch.int64))
    with pytest.raises(ShapeError, match="whole"):
        pipeline.decode(torch.full((1, 32), 0.5))
    with pytest.raises(UsageError, match="32 codes|codebook"):
        pipeline.decode([TokenSet.from_tokens([1], 16)])


# ---------------------------------------------------------------- edits


def test_edits_keep_locked_tokens_exactly(pipeline, picture):
    own = pipeline.tokenize([picture])[0]
    freed = [code for code, _ in own.pairs][:2]
    result = pipeline.edit(own, free=freed, text="red heart", count=4, seed=3)
    locked = own - TokenSet.from_mapping({c: n for c, n in own.pairs if c in freed}, 32)
    for made in result.sets:
        assert len(made) == len(own)
        kept = dict(made.pairs)
        assert all(kept[code] == times for code, times in locked.pairs)
    assert len(set(result.sets)) > 1
    again = pipeline.edit(
        result.settings["source"] and TokenSet.from_tokens(result.settings["source"], 32),
        free=result.settings["free"], text="red heart", seeds=result.seeds,
    )  # fmt: skip
    assert again.sets == result.sets


def test_edits_keep_bounds_exactly(pipeline, picture):
    own = pipeline.tokenize([picture])[0]
    codes = [code for code, _ in own.pairs]
    foreign = next(code for code in range(32) if code not in own)
    wanted, unwanted = {foreign: 2}, {codes[0]: 0}
    result = pipeline.edit(own, free=codes[:2], at_least=wanted, at_most={**unwanted, foreign: 2}, count=6, seed=3)
    for made in result.sets:
        assert dict(made.pairs)[foreign] == 2
        assert codes[0] not in made
        assert len(made) == len(own)
    assert result.settings["at_least"] == {str(foreign): 2}
    for bounds, message in (
        ({"at_least": {codes[-1]: 1}}, "locked"), ({"at_least": {foreign: 8}}, "allow"),
        ({"at_most": {99: 1}}, "0 to 31"),
        ({"at_least": {foreign: 2}, "at_most": {foreign: 1}}, "2 times or more"),
        ({"at_most": dict.fromkeys(set(range(32)) - set(codes[2:]), 0)}, "allow"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            pipeline.edit(own, free=codes[:2], **bounds)


def test_weak_edits_stay_nearer(pipeline, picture):
    own = pipeline.tokenize([picture])[0]
    near = pipeline.variations(own, strength=0.1, count=8, seed=1)
    far = pipeline.variations(own, strength=1.0, count=8, seed=1)
    kept = [np.mean([len(own & made) for made in result.sets]) for result in (near, far)]
    assert kept[0] >= kept[1]


def test_token_maps_say_where_tokens_act(pipeline, picture):
    own = pipeline.tokenize([picture])[0]
    found = pipeline.token_map(own)
    assert found.codes == tuple(code for code, _ in own.pairs)
    assert abs(float(found.heat.sum()) - 8) < 1e-3
    left_out = own - TokenSet.from_mapping({found.codes[0]: found.times[0]}, 32)
    change = (pipeline.decoded([left_out]).clamp(-1, 1) - pipeline.decoded([own]).clamp(-1, 1)).abs().mean(1)[0] / 2
    np.testing.assert_allclose(found.effect[0], change.numpy(), atol=1e-5)
    region = np.zeros((16, 16), bool)
    region[:8] = True
    np.testing.assert_allclose(found.shares(region) + found.shares(~region), 1.0, atol=1e-4)
    assert set(found.inside(region)) <= set(found.codes)
    result = pipeline.inpaint(own, region, seed=1)
    outside = [code for code in found.codes if code not in found.inside(region)]
    assert all(dict(result.sets[0].pairs)[code] == dict(own.pairs)[code] for code in outside)
    with pytest.raises(UsageError, match="empty"):
        pipeline.inpaint(own, region & False)
    with pytest.raises(ShapeError):
        found.shares(region[:4])


def test_interpolation_walks_from_one_set_to_the_other(pipeline, picture):
    one, other = pipeline.tokenize([picture, 255 - picture])
    result = pipeline.interpolate(one, other, steps=5, seed=2)
    assert result.sets[0] == one
    assert result.sets[-1] == other
    assert all(len(made) == 8 for made in result.sets)
    assert all((one & other) - made == TokenSet((), 32) for made in result.sets)
    assert [len(made & other) for made in result.sets] == sorted(len(made & other) for made in result.sets)
    with pytest.raises(UsageError, match="4 and 8"):
        pipeline.interpolate(TokenSet.from_tokens([1, 2, 3, 4], 32), one)


def test_swapping_moves_tokens(pipeline, picture):
    one, other = pipeline.tokenize([picture, 255 - picture])
    a, b = list(one)[:2], list(other)[:2]
    result = pipeline.swap(one, other, a, b)
    assert result.sets[0] + result.sets[1] == one + other
    assert len(result.sets[0]) == 8
    for wrong in (([], []), (a, b[:1]), ([31 if 31 not in one else 30], b[:1])):
        with pytest.raises(UsageError):
            pipeline.swap(one, other, *wrong)


def test_a_region_changes_places(pipeline, picture):
    one, other = pipeline.tokenize([picture, 255 - picture])
    region = np.zeros((16, 16), bool)
    region[:, :8] = True
    result = pipeline.swap_region(one, other, region)
    assert result.sets[0] + result.sets[1] == one + other
    assert [len(made) for made in result.sets] == [8, 8]
    moved = TokenSet.from_tokens(result.settings["from_one"], 32)
    assert {code for code, _ in moved.pairs} <= set(pipeline.token_map(one).inside(region))
    again = pipeline.again(result.only(1).recipe())
    assert np.array_equal(again.images[0], result.images[1])
    with pytest.raises(UsageError, match="empty"):
        pipeline.swap_region(one, other, region & False)
    with pytest.raises(UsageError, match="no tokens"):
        pipeline.again({"settings": {}, "seeds": [0]})


def test_denoising_and_reconstruction(pipeline, picture):
    assert pipeline.denoise(picture).sets[0] == pipeline.tokenize([picture])[0]
    assert len(pipeline.denoise(picture, rounds=3).sets[0]) == 8
    assert len(pipeline.reconstruct(picture, 16).sets[0]) == 16
    with pytest.raises(UsageError):
        pipeline.denoise(picture, rounds=0)
    with pytest.raises(UsageError, match="strength"):
        pipeline.variations(picture, strength=0)
    with pytest.raises(UsageError, match="holds no"):
        pipeline.edit(TokenSet.from_tokens([1] * 8, 32), free=[2])


# ---------------------------------------------------------------- folders and results


def test_a_folder_gives_the_same_model_back(pipeline, model_folder, tmp_path):
    again = genmm.load(model_folder, device="cpu")
    assert again.generate("red heart", seed=1).sets == pipeline.generate("red heart", seed=1).sets
    assert again.defaults == pipeline.defaults
    info = again.info
    assert info["labels"]["style"] == ["noto", "twemoji"]
    assert json.dumps(info)
    half = again.save(tmp_path / "half", dtype=torch.float16)
    assert genmm.load(half, device="cpu").generate(seed=1).images[0].shape == (16, 16, 3)
    alone = genmm.load(model_folder / "tokenizer", device="cpu")
    with pytest.raises(UsageError, match="tokenizer alone"):
        alone.generate("red heart")
    config = json.loads((model_folder / "tokenizer" / "config.json").read_text())
    assert config["tokenizer"]["codes"] == 32


def test_parts_that_do_not_belong_together_are_refused(tiny_parts):
    tiny_network, tiny_tokenizer = tiny_parts

    with pytest.raises(CheckpointError, match="codes"):
        TokenSetPipeline(tiny_tokenizer(), tiny_network(codes=64))
    with pytest.raises(CheckpointError, match="sets of 7 tokens"):
        TokenSetPipeline(tiny_tokenizer(), tiny_network(tokens=7))


def test_results_carry_their_recipe(pipeline, tmp_path):
    result = pipeline.generate("red heart", count=2, seed=7, labels={"style": "noto"})
    paths = result.save(tmp_path / "heart.png")
    assert [path.name for path in paths] == ["heart_1.png", "heart_2.png", "heart_1.json", "heart_2.json"]
    recipe = read_recipe(paths[1])
    assert recipe["task"] == "image"
    assert recipe["tokens"] == [list(result.sets[1])]
    assert recipe["seeds"] == [result.seeds[1]]
    assert read_tags(paths[1])["recipe"]["tokens"] == recipe["tokens"]
    assert np.array_equal(np.asarray(Image.open(paths[1])), result.images[1])
