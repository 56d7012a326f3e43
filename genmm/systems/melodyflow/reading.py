"""Free text -> caption fields, and a line that says what was understood and what was not.

No network takes part: words and phrases are looked up, so a person sees exactly what a small model will act on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from genmm.core.errors import UsageError
from genmm.systems.melodyflow.captions import FASTEST_BPM, PROGRESSIONS, SLOWEST_BPM, Caption

INSTRUMENTS = {
    "piano": ("piano", "pianos", "grand piano", "keys", "keyboard"),
    "guitar": ("guitar", "guitars", "acoustic guitar", "ukulele", "lute", "harp", "plucked strings"),
    "flute": ("flute", "flutes", "whistle", "recorder", "pan flute", "woodwind"),
    "strings": ("strings", "string", "violin", "violins", "cello", "viola", "orchestra", "bowed strings", "fiddle"),
    "organ": ("organ", "church organ", "accordion", "harmonium", "hammond"),
    "bell": ("bell", "bells", "glockenspiel", "vibraphone", "music box", "chimes", "celesta", "marimba", "xylophone"),
    "choir": ("choir", "voices", "vocals", "choral", "voice", "singing"),
    "synth": ("synth", "synthesizer", "synthesiser", "synths", "electronic lead", "sawtooth", "pad", "pads"),
}
ONLY_LEAD = ("flute", "bell")
BASS_WORDS = {
    "double bass": ("double bass", "upright bass", "contrabass", "acoustic bass", "plucked bass"),
    "synth bass": ("synth bass", "electric bass", "electronic bass", "sub bass", "808 bass"),
}
DRUM_WORDS = {
    "acoustic": ("acoustic drums", "drums", "drum", "drum kit", "live drums", "percussion", "rock drums", "beat"),
    "electronic": (
        "electronic drums", "electronic beat", "drum machine", "808", "techno drums", "house beat", "hip hop beat",
    ),
}  # fmt: skip
MOOD_WORDS = {
    "calm": ("calm", "quiet", "peaceful", "relaxing", "relaxed", "gentle", "soft", "soothing", "ambient", "lullaby"),
    "bright": ("bright", "happy", "cheerful", "joyful", "uplifting", "sunny", "playful", "light"),
    "dark": ("dark", "sad", "gloomy", "melancholic", "mysterious", "tense", "sombre", "somber", "moody"),
    "energetic": ("energetic", "lively", "powerful", "driving", "exciting", "upbeat", "epic", "dance", "intense"),
}
MOOD_MODES = {"happy": "major", "cheerful": "major", "joyful": "major", "sad": "minor", "melancholic": "minor",
              "gloomy": "minor"}  # fmt: skip
DENSITY_WORDS = {
    "sparse": ("sparse", "minimal", "few notes", "simple"),
    "medium": ("medium density", "medium"),
    "busy": ("busy", "many notes", "virtuosic", "fast notes", "complex"),
}
TEMPO_WORDS = {"very slow": 62.0, "slow": 75.0, "medium tempo": 105.0, "moderate": 105.0, "very fast": 170.0,
               "fast": 145.0, "waltz": 0.0}  # fmt: skip
FILLERS = frozenset(
    "a an and the in at with of on over by for to from music song tune track piece melody melodies chord chords "
    "accompaniment backing background solo lead playing played same as it is some bass line time bpm tempo key style "
    "instrumental loop but make like sound sounding please "
    "nice beautiful".split()
)
_PITCHES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
_NO = r"(?:no|without|without any|zero|minus)"


@dataclass(frozen=True)
class Reading:
    """What a text means to a model trained on captions."""

    caption: Caption
    """The fields found; the others are open."""
    ignored: tuple[str, ...] = ()
    """Words that mean nothing to it, in order."""
    notes: tuple[str, ...] = ()
    """Sentences about what was changed, such as a tempo out of range."""

    def sentence(self) -> str:
        """One line for the person: what was understood, and what was not."""
        understood = self.caption.text() or "nothing, so the model chooses"
        rest = f"; not understood: {', '.join(self.ignored)}" if self.ignored else ""
        return f"understood: {understood}{rest}"


class _Reader:
    """A text from which phrases are taken one after the other; taken places are blanked."""

    def __init__(self, text: str) -> None:
        self.original = text
        self.text = f" {re.sub(r'[^a-z0-9#/.-]+', ' ', text.lower().replace('♯', '#').replace('♭', 'b'))} "
        self.text = re.sub(r"(?<=[a-z0-9#])[.,;:](?=\s)", " ", self.text)
        self.notes: list[str] = []

    def take(self, pattern: str) -> re.Match[str] | None:
        """The first match between blanks; its place is blanked."""
        match = re.search(rf"(?<=\s)(?:{pattern})(?=\s)", self.text)
        if match:
            self.text = self.text[: match.start()] + "|" * len(match[0]) + self.text[match.end() :]
        return match

    def take_words(self, table: dict[str, tuple[str, ...]]) -> tuple[str, str] | None:
        """The value whose words occur, longest phrase first; and the words."""
        pairs = sorted(((word, value) for value, words in table.items() for word in words), key=lambda p: -len(p[0]))
        for word, value in pairs:
            if self.take(re.escape(word)):
                return value, word
        return None


def read_caption(text: str) -> Reading:
    """Find the fields of a caption in free text; "" gives an all-open one.

    Raises: UsageError for a text that is no string.
    """
    if not isinstance(text, str):
        raise UsageError(f"the description must be a string, got {type(text).__name__}")
    reader, found = _Reader(text), {}
    _read_progression(reader, found)
    _read_numbers(reader, found)
    _read_absences(reader, found)
    for name, table in (("bass", BASS_WORDS), ("drums", DRUM_WORDS)):
        match = reader.take_words(table)
        if match:
            found.setdefault(name, match[0])
    _read_key(reader, found)
    _read_instruments(reader, found)
    _read_character(reader, found)
    if reader.take("bass"):
        found.setdefault("bass", "double bass")
    words = [word.strip(".-/") for word in reader.text.replace("|", " ").split()]
    ignored = tuple(dict.fromkeys(word for word in words if word and word not in FILLERS))
    caption = Caption(**{key: value for key, value in found.items() if not key.startswith("_")})
    return Reading(caption, ignored, tuple(reader.notes))


def _read_progression(reader: _Reader, found: dict) -> None:
    """Four Roman numerals; capitals mean major chords, so case counts where two progressions differ by it alone."""
    match = re.search(r"(?<![a-zA-Z-])(?:[ivIV]+-){3}[ivIV]+(?![a-zA-Z-])", reader.original)
    if match is None or not reader.take(rf"(?:chords )?{match[0].lower()}"):
        return
    fitting = [name for name in PROGRESSIONS if name == match[0]] or [
        name for name in PROGRESSIONS if name.lower() == match[0].lower()
    ]
    if fitting:
        found["progression"] = fitting[0]
        found["_mode"] = PROGRESSIONS[fitting[0]][0]
    else:
        reader.notes.append(f"the chords {match[0]} are not known; known: {', '.join(PROGRESSIONS)}")


def _read_numbers(reader: _Reader, found: dict) -> None:
    match = reader.take(
        r"(?:tempo )?(?:of )?(\d{1,4}(?:\.\d+)?) ?(?:bpm|beats per minute|beats a minute)"
    ) or reader.take(r"(?:bpm|tempo) (?:of )?(\d{1,4}(?:\.\d+)?)")
    if match:
        tempo = float(match[1])
        fitted = min(max(tempo, SLOWEST_BPM), FASTEST_BPM)
        if fitted != tempo:
            reader.notes.append(f"{tempo:g} bpm is outside {SLOWEST_BPM:g} to {FASTEST_BPM:g}; {fitted:g} bpm is used")
        found["tempo_bpm"] = fitted
    match = reader.take(r"([34])/4") or reader.take("waltz")
    if match:
        found["metre"] = "3/4" if match[0] in ("3/4", "waltz") else "4/4"


def _read_absences(reader: _Reader, found: dict) -> None:
    for name, words in (("drums", "drums|drum|percussion|beat"), ("bass", "bass"), ("lead", "melody|lead|solo"),
                        ("backing", "chords|accompaniment|backing")):  # fmt: skip
        if reader.take(rf"{_NO} (?:{words})"):
            found[name] = "none"


def _read_key(reader: _Reader, found: dict) -> None:
    match = reader.take(r"(?:key of )?([a-g]) ?(#|b|sharp|flat)? ?-?(major|minor|maj|min)(?: key)?") or reader.take(
        r"(?:in|key of) ([a-g]) ?(#|b|sharp|flat)?()"
    )
    if match:
        sign = {"#": 1, "sharp": 1, "b": -1, "flat": -1}.get(match[2] or "", 0)
        found["tonic"] = _NAMES[(_PITCHES[match[1]] + sign) % 12]
        if match[3]:
            found["mode"] = "minor" if match[3].startswith("min") else "major"
    else:
        match = reader.take("(?:key )?(major|minor)(?: key)?")
        if match:
            found["mode"] = match[1]
    inferred = found.pop("_mode", None)
    if inferred and found.setdefault("mode", inferred) != inferred:
        reader.notes.append(f"the chords {found.pop('progression')} do not belong to {found['mode']} and were left out")


def _read_instruments(reader: _Reader, found: dict) -> None:
    """ "X chords" is the backing, any other first instrument the melody, a second one the backing."""
    words = {word: name for name, group in INSTRUMENTS.items() for word in group}
    alternatives = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    absent = reader.take(rf"{_NO} ({alternatives})")
    while absent:
        reader.notes.append(f"what is asked to be absent ({absent[1]}) can be given as negative text instead")
        absent = reader.take(rf"{_NO} ({alternatives})")
    match = reader.take(rf"({alternatives}) (?:chords|accompaniment|backing|pad|pads)")
    if match and words[match[1]] not in ONLY_LEAD:
        found.setdefault("backing", words[match[1]])
    elif match:
        found.setdefault("lead", words[match[1]])
    for role in ("lead", "backing"):
        match = reader.take(rf"({alternatives})(?: (?:melody|lead|solo))?")
        if not match:
            break
        name = words[match[1]]
        if role == "backing" and name in ONLY_LEAD and found.get("lead") not in ONLY_LEAD and "lead" in found:
            found["lead"], name = name, found["lead"]
        if role == "backing" and name in ONLY_LEAD:
            reader.notes.append(f"{match[1]} can only play the melody")
        else:
            found.setdefault(role, name)


def _read_character(reader: _Reader, found: dict) -> None:
    mood = reader.take_words(MOOD_WORDS)
    if mood:
        found["mood"] = mood[0]
        if mood[1] in MOOD_MODES and "progression" not in found:
            found.setdefault("mode", MOOD_MODES[mood[1]])
    for word, tempo in TEMPO_WORDS.items():
        if tempo and reader.take(re.escape(word)):
            found.setdefault("tempo_bpm", tempo)
    density = reader.take_words(DENSITY_WORDS)
    if density:
        found["density"] = density[0]


def merged(reading: Reading, **fields: object) -> Reading:
    """The reading with some fields set from outside (BPM and key given apart from the text); None changes nothing."""
    given = {name: value for name, value in fields.items() if value is not None}
    return replace(reading, caption=Caption.from_dict(given).over(reading.caption)) if given else reading
