"""Tokens: what is learned, that text comes back as it was, and what is said of text without tokens."""

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from feedalign_lab.errors import (
    CorruptFileError,
    MissingDataError,
    MissingPackageError,
    SettingError,
    TextError,
    UnknownTokenError,
)
from feedalign_lab.language.corpus import Corpus, Document, load_corpus
from feedalign_lab.language.sources import PART_NAMES
from feedalign_lab.language.tokenizer import END_OF_TEXT, blocks, unknown_token
from feedalign_lab.language.tokens import (
    chunks,
    decode,
    encode,
    encode_prompt,
    end_of_text,
    load_tokenizer,
    tokenize,
    train_tokenizer,
)

needs_files = pytest.mark.skipif("FEEDALIGN_DATA" not in os.environ, reason="FEEDALIGN_DATA is not set")
VERSE = "The cat sat on the mat, the rat sat on the hat; that cat was fat.\n" * 4
SMALL = train_tokenizer([VERSE], 300)
RUNS_OF_SPACES = train_tokenizer([VERSE.replace("the", "\n\nthe \n").replace(" sat", "   sat")], 300)
LINES_OF_SPACES = st.text(alphabet="ab' \n\t\r\u00a0é7.<|>", max_size=80)


def corpus(train: Sequence[str], validation: str = "A cat.", test: str = "A rat.") -> Corpus:
    documents = tuple(Document(f"{number}.txt", text) for number, text in enumerate(train))
    return Corpus("made", "nowhere", documents, (Document("v.txt", validation),), (Document("t.txt", test),))


def saved(path: Path, model: Any, **parts: Any) -> Tokenizer:
    """A tokenizer of the user's own, read from its file."""
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.save(str(path / "tokenizer.json"))
    return load_tokenizer(path / "tokenizer.json")


@given(st.text() | LINES_OF_SPACES)
@example(f"a{END_OF_TEXT}b")
def test_text_comes_back_as_it_was(text: str) -> None:
    tokens = encode(SMALL, text)
    assert decode(SMALL, tokens) == text
    assert end_of_text(SMALL) not in tokens


@given(LINES_OF_SPACES, st.integers(1, 20))
@example("the \n\nthe   the\n\n \nthe", 1)
def test_blocks_give_the_tokens_of_the_whole(text: str, num_characters: int) -> None:
    cut = list(blocks(text, num_characters))
    assert "".join(block for _, block in cut) == text
    assert all(text[start : start + len(block)] == block for start, block in cut)
    whole = RUNS_OF_SPACES.encode(text).ids
    assert [token for _, block in cut for token in RUNS_OF_SPACES.encode(block).ids] == whole


def test_long_text_is_cut_into_blocks() -> None:
    text = VERSE * 2000
    assert len(list(blocks(text))) > 2
    assert encode(SMALL, text).tolist() == SMALL.encode(text, add_special_tokens=False).ids


def test_the_first_merge_is_of_the_commonest_pair() -> None:
    text = "low lower lowest lot"
    one = train_tokenizer([text], 258)
    words = ["low", " lower", " lowest", " lot"]
    pairs = Counter(pair for word in words for pair in pairwise(word))
    ((commonest, _),) = pairs.most_common(1)
    learned = set(one.get_vocab()) - set(pre_tokenizers.ByteLevel.alphabet()) - {END_OF_TEXT}
    assert learned == {"".join(commonest)} == {"lo"}
    assert encode(one, text).numel() == len(text) - text.count("lo")


def test_the_smallest_vocabulary_is_bytes() -> None:
    tokenizer = train_tokenizer([VERSE], 257)
    assert encode(tokenizer, "é€").numel() == 5
    with pytest.raises(SettingError, match="A vocabulary of 256 tokens was asked for, at least 257 are needed"):
        train_tokenizer([VERSE], 256)


def test_the_training_part_alone_is_learned_from() -> None:
    one, other = (tokenize(corpus([VERSE], text, text), vocab_size=290) for text in ("zzzz " * 99, "yyyy " * 99))
    assert one.tokenizer.to_str() == other.tokenizer.to_str()
    assert one.tokenizer.to_str() != tokenize(corpus([VERSE, "zzzz " * 99]), vocab_size=290).tokenizer.to_str()


def test_streams_with_the_end_of_a_text_between_documents() -> None:
    tokens = tokenize(corpus(["The cat", "the rat", "sat"]), vocab_size=257)
    assert tokens.train.dtype == torch.int64
    end = end_of_text(tokens.tokenizer)
    assert (tokens.train == end).nonzero().flatten().tolist() == [7, 15]
    assert decode(tokens.tokenizer, tokens.train) == f"The cat{END_OF_TEXT}the rat{END_OF_TEXT}sat"
    assert decode(tokens.tokenizer, tokens.part("validation")) == "A cat."
    assert tokens.vocab_size == 257
    assert tokens.notes == ()
    assert (tokens.test.numel(), tokens.num_words["test"]) == (6, 2)
    assert tokens.num_words["train"] == 5


def test_fewer_tokens_than_asked_for_are_told() -> None:
    tokens = tokenize(corpus(["the cat the cat"]), vocab_size=1000)
    # Learned are th, the, and three for " cat", but not " the", which occurs once.
    assert tokens.vocab_size == 262
    (note,) = tokens.notes
    assert note.startswith("The vocabulary has 262 tokens, not the 1,000 asked for")


def test_lower_case_is_kept_by_the_file(tmp_path: Path) -> None:
    tokens = tokenize(corpus([VERSE]), vocab_size=300, lowercase=True)
    assert decode(tokens.tokenizer, tokens.validation) == "a cat."
    tokens.tokenizer.save(str(tmp_path / "t.json"))
    assert encode(load_tokenizer(tmp_path / "t.json"), "THE CAT").equal(encode(tokens.tokenizer, "the cat"))


def test_a_saved_tokenizer_makes_the_same_tokens(tmp_path: Path) -> None:
    SMALL.save(str(tmp_path / "t.json"))
    loaded = load_tokenizer(tmp_path / "t.json")
    text = f"{VERSE} é {END_OF_TEXT}"
    assert encode(loaded, text).equal(encode(SMALL, text))
    assert Tokenizer.from_file(str(tmp_path / "t.json")).get_vocab() == SMALL.get_vocab()
    tokens = tokenize(corpus([VERSE, "Ça"]), loaded)
    assert (tokens.vocab_size, tokens.notes) == (SMALL.get_vocab_size(), ())


def test_settings_for_training_do_not_go_with_a_trained_tokenizer() -> None:
    for settings in ({"vocab_size": 300}, {"lowercase": True}):
        with pytest.raises(SettingError, match="one that is trained was given"):
            tokenize(corpus([VERSE]), SMALL, **settings)


def test_truncation_padding_and_added_tokens_of_a_file_are_left_out(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(SMALL.to_str())
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=100)
    tokenizer.save(str(tmp_path / "t.json"))
    assert encode(load_tokenizer(tmp_path / "t.json"), VERSE).equal(encode(SMALL, VERSE))


def test_the_end_of_a_text_is_the_files_own_or_a_new_token(tmp_path: Path) -> None:
    words = pre_tokenizers.WhitespaceSplit()
    own = saved(tmp_path, models.WordLevel({"[UNK]": 0, "cat": 1, "</s>": 2}, unk_token="[UNK]"), pre_tokenizer=words)
    assert (end_of_text(own), tokenize(corpus(["cat"], "cat", "cat"), own).vocab_size) == (2, 3)
    new = saved(tmp_path, models.WordLevel({"[UNK]": 0, "cat": 7}, unk_token="[UNK]"), pre_tokenizer=words)
    tokens = tokenize(corpus(["cat", "cat"], "cat", "cat"), new)
    assert tokens.train.tolist() == [7, end_of_text(new), 7]
    assert tokens.train.max() < tokens.vocab_size


def test_the_share_of_unknown_tokens_is_told(tmp_path: Path) -> None:
    model = models.WordLevel({"[UNK]": 0, "cat": 1}, unk_token="[UNK]")
    tokenizer = saved(tmp_path, model, pre_tokenizer=pre_tokenizers.WhitespaceSplit())
    assert tokenize(corpus(["cat"], "cat", "cat"), tokenizer).notes == ()
    (note,) = tokenize(corpus(["cat cat cat dog"], "cat dog", "cat"), tokenizer).notes
    assert "([UNK]): 25.00% of the train part, 50.00% of the validation part, 0.00% of the test part" in note
    unigram = saved(tmp_path, models.Unigram([("?", 0.0), ("a", -1.0)], 0))
    assert unknown_token(unigram) == 0


BYTES = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
BYTES_AND_ENDS = BYTES | {"b!": 256, "\u010a!": 257}
BY_BYTE = pre_tokenizers.ByteLevel(add_prefix_space=False)
# The letters that stand for the two bytes of e with acute are those of A with tilde and of the copyright sign.
NO_SECOND_BYTE = {letter: number for letter, number in BYTES.items() if letter != "\u00a9"}


@pytest.mark.parametrize(
    ("model", "parts", "text", "told"),
    [
        # A byte-pair model leaves out what it does not know, without a word.
        (models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]), {}, "ab\nab ç", "for 'ç' (U+00E7), and"),
        (models.BPE({"a": 0, "b": 1, "b</w>": 2}, [], end_of_word_suffix="</w>"), {}, "ab\nab ba", "for 'ba', and"),
        (models.BPE(BYTES_AND_ENDS, [], end_of_word_suffix="!"), {"pre_tokenizer": BY_BYTE}, "ab\nab ba", "for 'ba', "),
        (models.BPE(NO_SECOND_BYTE, []), {"pre_tokenizer": BY_BYTE}, "ab\nab é", "for 'é' (U+"),
        (models.BPE({"a": 0, "b": 1}, []), {"normalizer": normalizers.NFC()}, "ab\nab e\u0301", "for 'e' (U+0065), "),
        (
            models.BPE({"a": 0, "b": 1, " ": 2, "\n": 3}, []),
            {"pre_tokenizer": None},
            "ab\nab ç",
            "for 'ç' (U+00E7), and",
        ),
        (models.BPE({"a": 0, "b": 1, "\n": 2}, []), {"pre_tokenizer": None}, "ab\nabb b", "for ' ' (U+0020), and"),
        # The others stop.
        (models.WordLevel({"ab": 0}), {}, "ab\nab cd", "for 'cd', and"),
        (models.WordPiece({"ab": 0}), {}, "ab\nab cd", "for 'cd', and"),
        (models.Unigram([("a", -1.0), ("b", -2.0)], None), {}, "ab\nab ç", "for 'ç' (U+00E7), and"),
    ],
)
def test_text_without_tokens_is_refused(
    tmp_path: Path, model: Any, parts: dict[str, Any], text: str, told: str
) -> None:
    tokenizer = saved(tmp_path, model, **({"pre_tokenizer": pre_tokenizers.Whitespace()} | parts))
    with pytest.raises(UnknownTokenError) as raised:
        tokenize(corpus(["ab"], text, "ab"), tokenizer)
    assert told in str(raised.value)
    assert "none for the unknown: the first stands in v.txt, line 2, character 4." in str(raised.value)
    with pytest.raises(UnknownTokenError, match=r"in the prompt, line 2"):
        encode_prompt(tokenizer, text)


def test_the_first_unknown_character_is_found_where_it_stands(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path, models.BPE({"a": 0}, []), pre_tokenizer=pre_tokenizers.Whitespace())
    text = "a " * 150_000 + "\naa aßa öäüéè"
    with pytest.raises(UnknownTokenError, match=r"'ß' \(U\+00DF\), .* and others, 6 in all, .* line 2, character 5\."):
        encode_prompt(tokenizer, text)


def test_what_a_tokenizer_leaves_out_on_purpose_is_not_unknown(tmp_path: Path) -> None:
    parts = {"pre_tokenizer": pre_tokenizers.Whitespace(), "normalizer": normalizers.BertNormalizer()}
    tokenizer = saved(tmp_path, models.BPE({"a": 0, "e": 1}, []), **parts)
    assert encode_prompt(tokenizer, "A\u0000 \n é").tolist() == [0, 1]


def test_parts_and_prompts_without_token(tmp_path: Path) -> None:
    cleaner = saved(tmp_path, models.BPE({"a": 0}, []), normalizer=normalizers.Replace("-", ""))
    with pytest.raises(TextError, match=r"made: the tokenizer makes no token of the validation part, v\.txt"):
        tokenize(corpus(["a-", "---"], "---", "a"), cleaner)
    for prompt in ("", "--"):
        with pytest.raises(TextError, match="has no token: at least one is needed"):
            encode_prompt(cleaner, prompt)


@pytest.mark.parametrize(
    "content",
    ["", "hello", "[]", "{}", '{"hello": 0}', '{"version": "1.0", "model": {}}', b"\xff\xfe\x00", b"\x0a\x09<unk>\x00"],
)
def test_files_that_are_no_tokenizer(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CorruptFileError, match=r"t\.json is not a tokenizer file: .* \(tokenizer\.json\)") as raised:
        load_tokenizer(path)
    assert "\n" not in str(raised.value)


def test_tokenizer_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.json", tmp_path):
        with pytest.raises(MissingDataError, match=r"The tokenizer file .* cannot be read: "):
            load_tokenizer(path)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'feedalign\[language\]'"):
        tokenize(corpus([VERSE]))


@given(st.integers(2, 60), st.integers(1, 12))
def test_every_token_but_the_first_is_a_target_once(num_tokens: int, length: int) -> None:
    stream = torch.arange(100, 100 + num_tokens)
    if num_tokens <= length:
        with pytest.raises(
            TextError, match=f"The test part has {num_tokens} tokens, too few for one chunk of {length}"
        ):
            chunks(stream, length, "test")
        return
    inputs, targets, num_dropped = chunks(stream, length)
    assert inputs.shape == targets.shape == ((num_tokens - 1) // length, length)
    assert targets.flatten().tolist() == stream[1 : num_tokens - num_dropped].tolist()
    assert inputs.flatten().tolist() == stream[: num_tokens - num_dropped - 1].tolist()
    assert 0 <= num_dropped < length


def test_chunks_have_a_length() -> None:
    with pytest.raises(SettingError, match="A chunk of 0 tokens"):
        chunks(torch.arange(5), 0)


@needs_files
def test_real_text_comes_back_as_it_was() -> None:
    text = load_corpus("shakespeare")
    tokens = tokenize(text, vocab_size=512)
    assert tokens.vocab_size == 512
    for part in PART_NAMES:
        assert decode(tokens.tokenizer, tokens.part(part)) == text.part(part)[0].text
        assert 1.5 < tokens.part(part).numel() / tokens.num_words[part] < 4
    assert json.loads(tokens.tokenizer.to_str())["model"]["type"] == "BPE"
