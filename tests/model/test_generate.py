"""Text written: what the cache saves must not change what is written, and no row knows of its neighbours."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from scipy.stats import chisquare
from support import make_noisy_model
from torch import Tensor

from nanogpt.config import ModelConfig
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.generate import DRAWN_TOGETHER, Sampling, Writer, choose, context_start, generate, texts_of, writing
from nanogpt.model.gpt import GPT
from nanogpt.text.corpus import Corpus
from nanogpt.text.vocabulary import UNKNOWN, Vocabulary

GREEDY = Sampling(temperature=0)
LETTERS = Vocabulary("\nabcdefghi")


@pytest.fixture(scope="module")
def model(trained: Checkpoint) -> GPT:
    return trained.build()


def letters_model(block_size: int) -> GPT:
    """Never at rest: a random float64 model, so that texts do not end in one repeated character."""
    return make_noisy_model(ModelConfig(n_layer=2, n_head=2, n_embd=16, block_size=block_size), len(LETTERS))


@torch.no_grad()
def recomputed(model: GPT, vocabulary: Vocabulary, prompt: str, characters: int) -> str:
    """Greedy text without a cache: the whole context again for each character."""
    ids = vocabulary.encode(prompt).tolist() or [vocabulary.start_id]
    for _ in range(characters):
        context = ids[context_start(len(ids), model.config.block_size):]
        logits_V = model(torch.tensor([context]))[0, -1]
        logits_V[UNKNOWN] = -torch.inf
        ids.append(int(logits_V.argmax()))
    return vocabulary.decode(ids[-characters:])


@pytest.mark.parametrize("block_size", [1, 2, 3, 5, 8])
def test_cached_greedy_text_is_the_recomputed_one_over_many_contexts(block_size: int) -> None:
    model, prompts = letters_model(block_size), ["", "a", "bd", "hgfedc", "abcdefghi" * 3, "g\nc"]
    characters = 5 * block_size + 3
    written = generate(model, LETTERS, prompts, characters, sampling=GREEDY)
    assert written == [recomputed(model, LETTERS, prompt, characters) for prompt in prompts]
    assert len(set(written)) > 1


def test_a_trained_model_writes_greedily_what_it_would_without_a_cache(model: GPT, trained: Checkpoint) -> None:
    prompts = ["ROMEO:", "To be", "", "the " * 20]
    written = generate(model, trained.vocabulary, prompts, 80, sampling=GREEDY)
    assert written == [recomputed(model, trained.vocabulary, prompt, 80) for prompt in prompts]


@pytest.mark.parametrize("block_size", [1, 2, 5, 8])
@torch.inference_mode()
def test_the_writers_logits_are_those_of_the_context(block_size: int) -> None:
    """Rows of all lengths around the context, so that some begin anew while others go on."""
    model = letters_model(block_size)
    generator = torch.Generator().manual_seed(3)
    texts = [torch.randint(10, (length,), generator=generator).tolist() for length in (1, 2, 4, 5, 6, 7, 7, 9, 17)]
    writer = Writer(model, texts)
    for _ in range(3 * block_size + 2):
        logits_BV = writer.logits()
        for text, logits_V in zip(writer.texts, logits_BV, strict=True):
            expected_V = model(torch.tensor([text[context_start(len(text), block_size):]]))[0, -1]
            torch.testing.assert_close(logits_V, expected_V, rtol=0, atol=1e-10)
            text.append(int(torch.randint(10, (), generator=generator)))


@pytest.mark.parametrize("block_size", range(1, 12))
def test_the_context_reaches_to_the_last_character_and_moves_in_half_blocks(block_size: int) -> None:
    starts = [context_start(length, block_size) for length in range(200)]
    assert starts[:block_size + 1] == [0] * (block_size + 1)
    for length in range(block_size + 1, 200):
        assert block_size / 2 < length - starts[length] <= block_size
    moves = {after - before for before, after in pairwise(starts)}
    assert moves == {0, max(1, block_size // 2)} or block_size < 4


def test_a_row_does_not_depend_on_its_neighbours(model: GPT, trained: Checkpoint, corpora: dict[str, Corpus]) -> None:
    prompts = [corpora["math"].test.text[7 * i:7 * i + 1 + 9 * i] for i in range(7)]
    together = generate(model, trained.vocabulary, prompts, 70, seeds=range(7))
    for i, prompt in enumerate(prompts):
        assert generate(model, trained.vocabulary, [prompt], 70, seeds=i) == [together[i]]
    backwards = generate(model, trained.vocabulary, prompts[::-1], 70, seeds=range(6, -1, -1))
    assert backwards[::-1] == together


def test_a_seed_decides_the_text_and_the_global_stream_does_not(model: GPT, trained: Checkpoint) -> None:
    before = torch.get_rng_state()
    first = generate(model, trained.vocabulary, ["a", "a", "a"], 60, seeds=[5, 6, 5])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert first == generate(model, trained.vocabulary, ["a", "a", "a"], 60, seeds=[5, 6, 5])
    torch.set_rng_state(before)
    assert first[0] == first[2] != first[1]
    assert generate(model, trained.vocabulary, ["a", "a"], 60, seeds=5) == [first[0]] * 2


def test_a_longer_text_begins_with_the_shorter_one(model: GPT, trained: Checkpoint) -> None:
    long = generate(model, trained.vocabulary, ["KING"], 90, seeds=3)[0]
    assert len(long) == 90
    for characters in (0, 1, 15, 16, 17, 64):
        assert generate(model, trained.vocabulary, ["KING"], characters, seeds=3) == [long[:characters]]


def test_the_seed_does_not_matter_where_there_is_no_choice(model: GPT, trained: Checkpoint) -> None:
    greedy = generate(model, trained.vocabulary, ["I"] * 3, 50, sampling=GREEDY, seeds=[1, 2, 3])
    for sampling in (Sampling(1.0, top_k=1), Sampling(1.0, top_p=1e-9), Sampling(1e-6), Sampling(1e-45)):
        assert generate(model, trained.vocabulary, ["I"] * 3, 50, sampling=sampling, seeds=[1, 2, 3]) == greedy
    assert len(set(generate(model, trained.vocabulary, ["I"] * 3, 50, sampling=Sampling(1.0), seeds=[1, 2, 3]))) == 3


def test_an_untrained_model_draws_evenly_and_top_k_1_is_greedy_even_among_equals(checkpoints: list[Checkpoint]) -> None:
    untrained = checkpoints[0]
    model, vocabulary = untrained.build(), untrained.vocabulary
    greedy = generate(model, vocabulary, ["a"], 20, sampling=GREEDY)
    assert generate(model, vocabulary, ["a"], 20, sampling=Sampling(1.0, top_k=1)) == greedy
    drawn = "".join(generate(model, vocabulary, ["a"] * 20, 100, sampling=Sampling(1.0), seeds=range(20)))
    assert len(set(drawn)) == len(vocabulary.characters)


def drawn_frequencies(logits_V: Tensor, sampling: Sampling, draws: int = 50_000) -> Tensor:
    uniform_B = torch.rand(draws, generator=torch.Generator().manual_seed(8))
    chosen_B = choose(logits_V.expand(draws, -1), uniform_B, sampling)
    return torch.bincount(chosen_B, minlength=len(logits_V)).double()


LOGITS_V = torch.tensor([3.0, 1.0, 0.0, 2.0, -1.0, 0.5, -3.0])     # `<unk>` would be the likeliest


@pytest.mark.parametrize(("sampling", "kept"), [
    (Sampling(1.0), [1, 2, 3, 4, 5, 6]), (Sampling(0.5), [1, 2, 3, 4, 5, 6]), (Sampling(2.0), [1, 2, 3, 4, 5, 6]),
    (Sampling(1.0, top_k=3), [3, 1, 5]), (Sampling(1.0, top_k=100), [1, 2, 3, 4, 5, 6]),
    (Sampling(1.0, top_p=0.6), [3, 1]), (Sampling(1.0, top_p=0.5), [3]), (Sampling(1.0, top_p=0.97), [3, 1, 5, 2, 4]),
    (Sampling(1.0, top_k=2, top_p=0.97), [3, 1])])
def test_frequencies_follow_the_softmax_of_what_is_kept(sampling: Sampling, kept: list[int]) -> None:
    """Chi-square below its 0.9999 quantile; characters that are cut never occur."""
    expected_V = torch.zeros(7, dtype=torch.float64)
    expected_V[kept] = (LOGITS_V[kept].double() / sampling.temperature).softmax(-1)
    found_V = drawn_frequencies(LOGITS_V, sampling)
    assert found_V.nonzero().flatten().tolist() == sorted(kept)
    if len(kept) > 1:
        assert chisquare(found_V[kept], 50_000 * expected_V[kept]).pvalue > 1e-4


def test_top_p_keeps_the_fewest_characters_that_reach_it() -> None:
    p_V = LOGITS_V[1:].double().softmax(-1).sort(descending=True).values
    for top_p in torch.linspace(0.01, 0.999, 60).tolist():
        needed = int((p_V.cumsum(0) < top_p).sum()) + 1
        assert int((drawn_frequencies(LOGITS_V, Sampling(1.0, top_p=top_p), 20_000) > 0).sum()) <= needed
        uniform_B = torch.tensor([0.0, 1 - 1e-7])
        first, last = choose(LOGITS_V.expand(2, -1), uniform_B, Sampling(1.0, top_p=top_p)).tolist()
        order = [i for i in LOGITS_V.argsort(descending=True).tolist() if i != UNKNOWN]
        assert (first, last) == (order[0], order[needed - 1])


def test_choosing_leaves_the_logits_as_they_are() -> None:
    logits_BV = LOGITS_V.expand(2, -1).clone()
    choose(logits_BV, torch.zeros(2), Sampling(1.0))
    assert torch.equal(logits_BV, LOGITS_V.expand(2, -1))


def test_a_temperature_of_nearly_nothing_is_greedy(trained: Checkpoint) -> None:
    greedy, nearly = (generate(trained.build(), trained.vocabulary, ["To be"], 40, sampling=Sampling(temperature))
                      for temperature in (0.0, 9e-7))
    assert greedy == nearly


def test_random_numbers_are_drawn_as_they_are_needed(trained: Checkpoint) -> None:
    model, vocabulary = trained.build(), trained.vocabulary
    endless = writing(model, vocabulary, ["To be", "A"], 10**9, seeds=[3, 4])
    first = [next(endless) for _ in range(DRAWN_TOGETHER + 5)]
    assert texts_of(first, 2) == generate(model, vocabulary, ["To be", "A"], DRAWN_TOGETHER + 5, seeds=[3, 4])


def test_unk_is_never_written(trained: Checkpoint) -> None:
    model = trained.build()
    with torch.no_grad():
        model.embedding.weight.fill_(1.0)
        model.head.weight[UNKNOWN] = 100.0
    for sampling in (GREEDY, Sampling(5.0), Sampling(1.0, top_k=3), Sampling(1.0, top_p=0.3)):
        written = "".join(generate(model, trained.vocabulary, ["ab", "漢"], 100, sampling=sampling, seeds=[1, 2]))
        assert set(written) <= set(trained.vocabulary.characters) and len(written) == 200


def test_unknown_characters_are_read_as_unk() -> None:
    first, second, known = generate(letters_model(8), LETTERS, ["ab漢c", "ab字c", "abac"], 60, sampling=GREEDY)
    assert first == second != known


def test_an_empty_prompt_stands_for_a_new_line(model: GPT, trained: Checkpoint) -> None:
    empty, line = generate(model, trained.vocabulary, ["", "\n"], 40)
    assert empty == line and len(empty) == 40


def test_of_a_long_prompt_the_context_is_read(model: GPT, trained: Checkpoint) -> None:
    prompt = "Now is the winter of our discontent made glorious summer by this sun of York;"
    kept = prompt[context_start(len(prompt), 32):]
    long, short = generate(model, trained.vocabulary, [prompt, kept], 4, sampling=Sampling(1.0))
    assert 16 < len(kept) <= 32 and long == short
    writer = Writer(model, [trained.vocabulary.encode(text).tolist() for text in (prompt, kept, kept[8:])])
    with torch.inference_mode():
        first_V, second_V, third_V = writer.logits()
    torch.testing.assert_close(first_V, second_V)
    assert not torch.allclose(first_V, third_V)


def test_nothing_asked_is_nothing_written(model: GPT, trained: Checkpoint) -> None:
    assert generate(model, trained.vocabulary, [], 10) == []
    assert generate(model, trained.vocabulary, ["a", "b"], 0) == ["", ""]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Sampling(-0.1), "temperature must be >= 0 and finite, got -0.1"),
    (lambda: Sampling(float("nan")), "temperature must be >= 0 and finite, got nan"),
    (lambda: Sampling(float("inf")), "temperature must be >= 0 and finite, got inf"),
    (lambda: Sampling(top_k=-1), "top_k must be >= 0, got -1"),
    (lambda: Sampling(top_p=0.0), r"top_p must be in \(0, 1\], got 0.0"),
    (lambda: Sampling(top_p=1.1), r"top_p must be in \(0, 1\], got 1.1")])
def test_impossible_sampling_is_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


def test_impossible_requests_are_refused(model: GPT, trained: Checkpoint) -> None:
    with pytest.raises(ValueError, match="max_new_characters must be >= 0, got -1"):
        generate(model, trained.vocabulary, ["a"], -1)
    with pytest.raises(ValueError, match="seeds must be one for each prompt, got 3"):
        generate(model, trained.vocabulary, ["a", "b"], 5, seeds=[1, 2, 3])
