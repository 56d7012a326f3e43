"""A speech report as Markdown, short enough for a model card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from genmm.metrics.bootstrap import Interval
from genmm.metrics.speech_report import SpeechReport


def report_markdown(report: SpeechReport, *, level: int = 2) -> str:
    """The whole report; headings start at the given level."""
    parts = [
        ("Goals", _goals(report)),
        ("Number words", _numbers(report)),
        ("Letters and sentences", _letters(report)),
        ("Voices", _voices(report)),
        ("Held-out frames", _frames(report)),
        ("Readings of held-out texts", _readings(report)),
        ("Endings", _stops(report)),
        ("Speed", _speed(report)),
        ("Notes", [f"- {note}" for note in report.notes]),
    ]
    mark, lines = "#" * level, [*_settings(report), ""]
    for title, body in parts:
        if body:
            lines += [f"{mark} {title}", "", *body, ""]
    return "\n".join(lines).rstrip() + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table, empty without rows."""
    body = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *body] if body else []


def percent(value: Interval) -> str:
    """A share with its interval: 12.3 % (10.1 to 14.9)."""
    return f"{100 * value.value:.1f} % ({100 * value.low:.1f} to {100 * value.high:.1f})"


def span(value: Interval | None, digits: int = 2) -> str:
    """A figure with its interval."""
    if value is None:
        return "-"
    return f"{value.value:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def _settings(report: SpeechReport) -> list[str]:
    """What the speech was made with, as far as it changes the figures."""
    defaults = report.settings.get("defaults", {})
    names = ("guidance", "temperature", "draws", "draw_merge", "stop_threshold", "retries")
    used = ", ".join(f"{name} {defaults[name]}" for name in names if name in defaults)
    seed = f"Seed {report.settings['seed']}. " if "seed" in report.settings else ""
    packing = report.settings.get("packing", "live")
    packed = "" if packing == "live" else f" Weights were packed as {packing}."
    return [(f"{seed}Speech was made with {used}." if used else seed.strip()) + packed]


def _goals(report: SpeechReport) -> list[str]:
    rows = [(goal.name, f"{goal.value:.3f}", goal.wanted, "yes" if goal.is_met else "no") for goal in report.goals]
    return table(("goal", "measured", "wanted", "met"), rows)


def _word_rows(scores: Iterable) -> list[tuple[str, ...]]:
    return [
        (
            score.name,
            str(score.rate.items),
            str(score.errors.words),
            percent(score.rate),
            f"{score.errors.substitutions} / {score.errors.deletions} / {score.errors.insertions}",
        )
        for score in scores
    ]


_WORD_HEADER = ("speech", "utterances", "words", "word error rate (95 % interval)", "sub / del / ins")


def _numbers(report: SpeechReport) -> list[str]:
    body = table(_WORD_HEADER, _word_rows(report.numbers))
    return [f"Judge, not trained by us and not tuned: {report.judge}.", "", *body] if body else []


def _letters(report: SpeechReport) -> list[str]:
    letters = table(("letters", *_WORD_HEADER[1:]), _word_rows(report.letters))
    rows = [
        (score.name, str(score.accuracy.items), str(score.choices), percent(score.accuracy))
        for score in report.sentences
    ]
    sentences = table(("sentences", "utterances", "choices", "recognised (95 % interval)"), rows)
    return [*letters, *([""] if letters and sentences else []), *sentences]


def _voices(report: SpeechReport) -> list[str]:
    if report.levels is None:
        return []
    levels = report.levels
    rows = [
        ("real, same speaker", str(levels.recordings), f"{levels.same:.2f}"),
        ("real, other speakers", str(levels.recordings), f"{levels.other:.2f} (95 % below {levels.other_high:.2f})"),
        *((score.name, str(score.similarity.items), span(score.similarity)) for score in report.voices),
    ]
    about = (
        f"Cosine of a small probe of our own to real recordings of the speaker. On {levels.speakers} speakers that it "
        f"never heard its equal error rate is {100 * levels.equal_error_rate:.0f} %. Not comparable with SIM of papers."
    )
    return [about, "", *table(("speech", "utterances", "similarity"), rows)]


def _frames(report: SpeechReport) -> list[str]:
    frames = report.frames
    if frames is None:
        return []
    groups = ", ".join(f"{ratio:.2f}" for ratio in frames.ratio_by_group)
    times = ", ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in frames.ratio_by_time)
    rows = [
        ("energy score (latent units, lower is better)", f"{frames.energy_score:.3f}"),
        ("mean distance of a draw from the truth", f"{frames.error:.3f}"),
        ("calibration ratio r (1 = as varied as the data)", f"{frames.ratio:.3f}"),
        ("r by channel group, first to last", groups),
        ("r over the utterance, start to end", times),
    ]
    return [f"Teacher forced, {frames.frames} frames, {frames.draws} draws.", "", *table(("figure", "value"), rows)]


def _readings(report: SpeechReport) -> list[str]:
    rows = [
        (
            score.name,
            str(score.mel_cepstral_db.items),
            span(score.mel_cepstral_db),
            span(score.log_f0_rmse, 3),
            percent(score.voicing_error),
            percent(score.duration_error),
        )
        for score in report.readings
    ]
    header = ("against the real reading", "pairs", "mel cepstra, dB", "ln F0 RMSE", "voicing error", "duration error")
    body = table(header, rows)
    if report.sets is not None:
        sets = report.sets
        body += [
            "",
            f"Energy distance of utterance statistics, {sets.recordings} generated to {sets.real_recordings} real: "
            f"{sets.distance:.3f}; between random halves of the real ones {sets.floor_mean:.3f}, 95 % below "
            f"{sets.floor_high:.3f}.",
        ]
    return body


def _stops(report: SpeechReport) -> list[str]:
    stops = report.stops
    if stops is None:
        return []
    rows = [
        ("ended by themselves", f"{100 * stops.stopped:.1f} % of {stops.utterances}"),
        ("after the last voiced frame", f"{stops.tail_s:.2f} s at {stops.tail_level_db:.0f} dB (medians)"),
    ]
    if stops.length_ratio is not None:
        spread = f"{stops.length_ratio_low:.2f} to {stops.length_ratio_high:.2f}"
        rows.append(("length against the real reading", f"{stops.length_ratio:.2f} (80 % within {spread})"))
    return table(("figure", "value"), rows)


def _speed(report: SpeechReport) -> list[str]:
    speed = report.speed
    if speed is None:
        return []
    machine = report.machine
    gpus = ", ".join(gpu["name"] for gpu in machine.get("gpus", []))
    rows = [
        ("first sound after", f"{speed.first_audio_s:.3f} s"),
        ("live, batch 1", f"{speed.times_real_time:.1f} x real time"),
        ("silence inside", f"{speed.gaps_s:.3f} s at most"),
    ]
    if speed.batch_times_real_time is not None:
        rows.append((f"batch of {speed.batch_size}", f"{speed.batch_times_real_time:.1f} x real time"))
    about = f"On {machine.get('cpu', 'an unknown processor')}, {machine.get('torch_threads')} threads"
    return [
        f"{about}{', ' + gpus if gpus else ''}; medians of {speed.texts} texts.",
        "",
        *table(("figure", "value"), rows),
    ]
