"""The tokenizer against RoBERTa's slow algorithm, written out here, and against the stored case of the original."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm.core.errors import CheckpointError, ConfigError, UsageError
from genmm.systems.sled.tokenizer import SledTokenizer, train_bpe

TEXTS = [
    "The quick brown fox doesn't jump; it's over 14 lazy dogs, isn't it?",
    "Where does silence go? They'll say: 'we've been here', and I'm told she'd left.",
    "seven four one, seven four two, seven four three",
    "Do the dogs do it? The dogs do it in the silence of the night, they'll do it here.",
]
AWKWARD = "ab '\u2019\"lrevstmdL.,!?-  \t\n\r\x85\u00a0\u2003\u3000019\u0663\u00bd<s/>_|"
AWKWARD += "\u00e9e\u0301\u65e5\u672c\U0001f600\u200d"


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TEXTS, 340)


def byte_symbols():
    """The printable stand-ins of GPT-2 for the 256 bytes, from their definition."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}


def slow_encode(text, vocab, merges):
    """RoBERTa's slow tokenizer as published: split by one pattern, then merge the best pair until none is left."""
    regex = pytest.importorskip("regex", reason="the slow reference needs \\p classes")
    rank = {tuple(merge): n for n, merge in enumerate(merges)}
    symbols, ids = byte_symbols(), [0]
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    for word in regex.findall(pattern, text):
        parts = [symbols[byte] for byte in word.encode()]
        while len(parts) > 1:
            best = min(zip(parts, parts[1:], strict=False), key=lambda pair: rank.get(pair, len(rank)))
            if best not in rank:
                break
            merged, n = [], 0
            while n < len(parts):
                step = 2 if tuple(parts[n : n + 2]) == best else 1
                merged.append("".join(parts[n : n + step]))
                n += step
            parts = merged
        ids += [vocab[part] for part in parts]
    return [*ids, 2]


def vocabulary(tokenizer):
    files = tokenizer.files()
    merges = [line.split(" ") for line in files["merges.txt"].decode().split("\n")[1:-1]]
    return json.loads(files["vocab.json"]), merges


@settings(max_examples=300, deadline=None)
@given(st.text(st.one_of(st.sampled_from(AWKWARD), st.characters(exclude_categories=["Cs", "Cn"])), max_size=30))
def test_ids_equal_the_slow_algorithm(tokenizer, text):
    assert tokenizer.encode(text) == slow_encode(text, *vocabulary(tokenizer))
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["", " ", "   ", "\n", *TEXTS, "</s><mask><pad> <s>"])
def test_plain_sentences_equal_the_slow_algorithm(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids == slow_encode(text, *vocabulary(tokenizer))
    assert ids.count(0) == ids.count(2) == 1
    assert max(ids) < tokenizer.vocab_size


def test_transformers_agrees(tokenizer):
    roberta = pytest.importorskip("transformers", reason="a second reference").RobertaTokenizer
    other = roberta(*vocabulary(tokenizer)[:1], merges=[tuple(m) for m in vocabulary(tokenizer)[1]])
    for text in [*TEXTS, "", "na\u00efve caf\u00e9  \u2014 \u201cquotes\u201d"]:
        assert tokenizer.encode(text) == other(text)["input_ids"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.sampled_from(AWKWARD), max_size=6), max_size=8))
def test_fed_in_pieces_the_ids_are_those_of_the_whole(tokenizer, pieces):
    feed = tokenizer.feed()
    ids = [i for piece in pieces for i in feed.push(piece)] + feed.finish()
    assert ids == tokenizer.encode("".join(pieces))


def test_a_word_is_released_as_soon_as_a_blank_follows(tokenizer):
    feed = tokenizer.feed()
    assert feed.push("The dogs") == [0, *tokenizer.encode_plain("The")]
    assert feed.push(" ") == tokenizer.encode_plain(" dogs")
    assert feed.push("they'l") == tokenizer.encode_plain(" they")
    assert feed.push("l") == []
    assert feed.push(" ") == tokenizer.encode_plain("'ll")
    assert feed.finish() == [*tokenizer.encode_plain(" "), 2]
    with pytest.raises(UsageError, match="finished"):
        feed.push("more")


def test_padding_left_and_right(tokenizer):
    rows = [tokenizer.encode(text) for text in TEXTS[:2]]
    gap = abs(len(rows[0]) - len(rows[1]))
    short = min(range(2), key=lambda n: len(rows[n]))
    left, right = tokenizer.batch(TEXTS[:2], "left"), tokenizer.batch(TEXTS[:2], "right")
    assert left.ids[short].tolist() == [1] * gap + rows[short]
    assert right.ids[short].tolist() == rows[short] + [1] * gap
    assert gap and left.mask.dtype == torch.bool and left.ids.dtype == torch.int64
    for batch in (left, right):
        assert [batch.ids[n][batch.mask[n]].tolist() for n in range(2)] == rows
        assert bool((batch.ids[~batch.mask] == 1).all())
    with pytest.raises(UsageError, match="left"):
        tokenizer.batch(["a"], "middle")


@pytest.mark.parametrize("text", ["a\ud800b", None, 3])
def test_what_is_no_text_is_refused(tokenizer, text):
    with pytest.raises(UsageError):
        tokenizer.encode(text)


def test_training_is_repeatable_and_keeps_to_its_size(tokenizer):
    assert tokenizer.files() == train_bpe(list(TEXTS), 340).files()
    vocab, merges = vocabulary(tokenizer)
    assert len(vocab) == 4 + 256 + len(merges) <= 340
    assert [vocab[token] for token in ("<s>", "<pad>", "</s>", "<unk>", "!")] == [0, 1, 2, 3, 4]
    assert len(tokenizer.encode(TEXTS[2])) < len(TEXTS[2])
    assert train_bpe([], 300).vocab_size == 260
    with pytest.raises(ConfigError, match="260"):
        train_bpe(TEXTS, 259)


def test_files_return_as_they_were(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = SledTokenizer.from_folder(tmp_path)
    assert again.files() == tokenizer.files()
    assert again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", "[]", "map tokens"),
        ("vocab.json", '{"<s>": 0, "<pad>": 1, "</s>": 3, "<unk>": 2}', "0 to 3"),
        ("vocab.json", '{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 9}', "gaps"),
        ("vocab.json", "{", "cannot be read"),
        ("merges.txt", "#version: 0.2\nq\u4e00 x\n", "does not fit"),
        ("merges.txt", "#version: 0.2\na b c\n", "does not fit"),
    ],
)
def test_damaged_files_are_refused(tokenizer, tmp_path, name, content, message):
    tokenizer.save(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        SledTokenizer.from_folder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        SledTokenizer.from_folder(tmp_path)


def test_stored_cases_of_the_original(parity_dirs):
    cases = [json.loads(path.read_text()) for folder in parity_dirs for path in folder.rglob("case_*.json")]
    cases = [case for case in cases if (case.get("system"), case.get("kind")) == ("sled", "tokenizer")]
    if not cases:
        pytest.skip("needs reference cases of kind tokenizer: give --parity-dir DIR")
    for case in cases:
        tokenizer = SledTokenizer(case["vocab"], case["merges"])
        assert tokenizer.vocab_size == case["vocab_size"]
        for item in case["cases"]:
            assert tokenizer.encode(item["text"]) == item["ids"]
            assert tokenizer.tokens(item["ids"]) == item["tokens"]
        for side in ("left", "right"):
            stored = case[f"padded_{side}"]
            batch = tokenizer.batch([item["text"] for item in case["cases"][: len(stored["ids"])]], side)
            assert batch.ids.tolist() == stored["ids"]
            assert batch.mask.long().tolist() == stored["mask"]
