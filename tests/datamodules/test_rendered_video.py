"""Computed scenes: what is described is what is seen and heard, and the truth says so."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.rendered_video import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SOUND_KINDS,
    Background,
    Effect,
    Mover,
    Scene,
    Shot,
    Sound,
    render_scene,
)
from genmm.core.errors import UsageError

SCENE = Scene(
    seconds=4.0,
    shots=(Shot(background=Background(kind="noise")), Shot(background=Background(colour="blue"), start_s=3.0)),
    movers=(
        Mover(shape="circle", colour="red", place=(0.1, 0.2), motion="right", speed=0.2),
        Mover(shape="star", colour="yellow", start_s=1.0, end_s=2.0, place=(0.8, 0.8)),
    ),
    sounds=(Sound(kind="clap", start_s=2.0, end_s=3.0),),
    highlights=((1.0, 3.0),),
)


def test_sizes_types_and_repeatability():
    frames, samples, truth = render_scene(SCENE, fps=10, side=(48, 64), sample_rate=8000)
    assert frames.shape == (40, 48, 64, 3)
    assert frames.dtype == np.uint8
    assert samples.shape == (32_000,)
    assert samples.dtype == np.float32
    assert np.abs(samples).max() <= 1.0
    assert truth.centres.shape == (40, 2, 2)
    again = render_scene(SCENE, fps=10, side=(48, 64), sample_rate=8000)
    assert np.array_equal(frames, again[0])
    assert np.array_equal(samples, again[1])


def test_a_frame_does_not_depend_on_the_frame_rate():
    slow, fast = render_scene(SCENE, fps=5, side=32)[0], render_scene(SCENE, fps=10, side=32)[0]
    assert np.array_equal(slow, fast[::2])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_its_colour_at_its_centre_of_mass(shape):
    scene = Scene(
        seconds=0.1,
        shots=(Shot(background=Background(colour="black")),),
        movers=(Mover(shape=shape, colour="green", place=(0.3, 0.6), size=0.4),),
    )
    picture = render_scene(scene, fps=10, side=100)[0][0].astype(int)
    painted = np.abs(picture - np.array(COLOURS["green"])).sum(-1) < 6
    rows, columns = np.nonzero(painted)
    assert 0.01 < painted.mean() < 0.13  # inside a circle of diameter 0.4
    assert columns.mean() == pytest.approx(30, abs=1.5)
    assert rows.mean() == pytest.approx(60, abs=4.5)  # the star and the triangle are not balanced up and down


def test_movement_is_where_the_truth_says():
    frames, _, truth = render_scene(SCENE, fps=10, side=80)
    for index in (0, 12, 25):
        red = np.abs(frames[index].astype(int) - np.array(COLOURS["red"])).sum(-1) < 40
        rows, columns = np.nonzero(red)
        x, y = truth.centres[index, 0] * 80
        assert columns.mean() + 0.5 == pytest.approx(x, abs=1.5)
        assert rows.mean() + 0.5 == pytest.approx(y, abs=1.5)


def test_the_truth_answers_questions():
    truth = render_scene(SCENE, fps=10, side=16)[2]
    assert truth.place(0, at_s=0.0) == "top left"
    assert truth.place(1) == "bottom right"
    assert truth.count(at_s=0.5) == 1
    assert truth.count(at_s=1.5) == 2
    assert truth.count(colour="yellow") == 1
    assert truth.count(shape="ring") == 0
    assert truth.order() == ("red circle", "yellow star", "clap", "cut")
    assert truth.order("object") == ("red circle", "yellow star")
    assert np.isnan(truth.centres[5, 1]).all()
    assert truth.clip_labels(2.0).tolist() == [True, True]
    assert truth.clip_labels(1.0).tolist() == [False, True, True, False]
    with pytest.raises(UsageError, match="not in the picture"):
        truth.place(1, at_s=0.0)


def test_a_mover_that_bounces_stays_inside():
    mover = Mover(shape="bar", colour="pink", place=(0.9, 0.5), motion="right", speed=0.7, bounces=True)
    centre = mover.centre(np.linspace(0, 20, 300))
    assert ((centre >= 0) & (centre <= 1)).all()
    assert centre[:, 0].min() < 0.05


def test_sound_is_only_where_it_is_described():
    samples = render_scene(SCENE, fps=1, side=8, sample_rate=8000)[1]
    loud = np.abs(samples.reshape(4, -1)).max(1)
    assert loud[[0, 1, 3]].tolist() == [0, 0, 0]
    assert loud[2] == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("kind", SOUND_KINDS)
def test_every_sound_is_finite_and_has_its_level(kind):
    scene = Scene(seconds=1.5, sounds=(Sound(kind=kind, level=0.4),))
    samples = render_scene(scene, fps=1, side=8)[1]
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_a_drifting_background_comes_back_without_a_seam(kind):
    scene = Scene(seconds=5.0, shots=(Shot(background=Background(kind=kind, drift=0.5)),))
    frames = render_scene(scene, fps=3, side=32)[0]
    assert np.array_equal(frames[0], frames[6])  # once around after two seconds
    assert kind == "plain" or not np.array_equal(frames[0], frames[1])


def test_cuts_fades_flashes_and_shakes_change_the_picture():
    effects = tuple(
        Effect(kind=k, start_s=s, end_s=s + 1.0) for k, s in (("fade", 1.0), ("flash", 3.0), ("shake", 5.0))
    )
    scene = Scene(
        seconds=7.0,
        shots=(Shot(background=Background(kind="checks")), Shot(background=Background(colour="green"), start_s=6.5)),
        effects=effects,
    )
    frames = render_scene(scene, fps=2, side=32)[0].astype(int)
    base = frames[0]
    assert frames[3].max() <= 1  # middle of the fade
    assert frames[7].min() >= 254
    assert not np.array_equal(frames[11], base)
    assert sorted(frames[11].ravel()) == sorted(base.ravel())  # the same pixels elsewhere
    assert np.abs(frames[13] - base).mean() > 20


def test_flashing_alternates_with_white():
    scene = Scene(seconds=1.0, movers=(Mover(shape="square", colour="red", size=0.5, flash_hz=5.0),))
    centre = render_scene(scene, fps=10, side=16)[0][:, 8, 8]
    assert centre[0].tolist() == list(COLOURS["red"])
    assert centre[1].tolist() == list(COLOURS["white"])
    assert centre[2].tolist() == list(COLOURS["red"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Mover(shape="blob", colour="red"), "mover.shape"),
        (lambda: Mover(shape="star", colour="teal"), "mover.colour"),
        (lambda: Mover(shape="star", colour="red", start_s=2.0, end_s=1.0), "start_s < end_s"),
        (lambda: Sound(kind="boom"), "sound.kind"),
        (lambda: Background(kind="sky"), "background.kind"),
        (lambda: Scene(seconds=0.0), "scene.seconds"),
        (lambda: Scene(seconds=1.0, shots=(Shot(background=Background(), start_s=1.0),)), "start at 0"),
        (lambda: render_scene(Scene(seconds=1.0), side=4), "8 to 2048"),
        (lambda: render_scene(Scene(seconds=1.0), fps=0), "fps"),
        (lambda: render_scene(Scene(seconds=90_000.0), fps=30), "too many"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(UsageError, match=words):
        make()
