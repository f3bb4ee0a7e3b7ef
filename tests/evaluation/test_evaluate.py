"""A text read once: every character exactly once, whatever the batch; a code length that cannot be cheated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import mannwhitneyu
from torch import Tensor

from nanogpt.config import ModelConfig
from nanogpt.evaluation import evaluate as evaluation
from nanogpt.evaluation.calibration import fit_temperature
from nanogpt.evaluation.evaluate import evaluate, score_split, window_logits
from nanogpt.evaluation.metrics import score
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.generate import top_characters
from nanogpt.model.gpt import GPT
from nanogpt.text.corpus import Corpus, Split, make_split, split_of
from nanogpt.text.splits import Stretch
from nanogpt.text.vocabulary import UNKNOWN, Vocabulary
from nanogpt.text.windows import scoring_windows


@pytest.fixture(scope="module")
def model(trained: Checkpoint) -> GPT:
    return trained.build()


@pytest.fixture(scope="module")
def split(corpora: dict[str, Corpus]) -> Split:
    """Pieces of a text with unknown characters: from its begin, after long and short contexts, a single character.

    Their lengths are no multiples of the context.
    """
    corpus = corpora["wikipedia"]
    text = corpus.test.text[:500] + "漢é" + corpus.test.text[500:]
    stretches = [Stretch(0, 150, 0), Stretch(190, 191, 1), Stretch(260, 297, 2), Stretch(480, 733, 3),
                 Stretch(740, 780, 4, context=735), Stretch(800, 832, 5, context=800)]
    return split_of(text, stretches, corpus.vocabulary, 32)


def one_at_a_time(model: GPT, split: Split) -> Tensor:
    """-ln p of each character, each by a forward pass of its own over the context that its window gives it.

    The first window of a piece ends block_size after the begin of what is read, each following one half of that
    later, the last one where the piece ends; a character is scored in the first window that holds it.
    """
    block_size, losses = model.config.block_size, []
    half = block_size // 2
    for piece in split.pieces:
        before = piece.context_C.tolist()[-half - 1:] or [split.vocabulary.start_id]
        text = before + split.ids_N[piece.begin:piece.end].tolist()
        for target in range(len(before), len(text)):
            end = block_size
            while end < target:
                end += half
            begin = max(0, min(end, len(text) - 1) - block_size)
            with torch.no_grad():
                logits_V = model(torch.tensor([text[begin:target]]))[0, -1]
            losses.append(-logits_V.log_softmax(-1)[text[target]])
    return torch.stack(losses)


def test_every_character_is_scored_once_in_order_after_the_context_of_its_window(model: GPT, split: Split) -> None:
    torch.testing.assert_close(score_split(model, split).loss_N, one_at_a_time(model, split), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("begin", [1, 2, 9, 17])
@pytest.mark.parametrize("length", [1, 15, 16, 100])
def test_a_piece_after_its_context_is_scored_as_in_the_text_of_both(model: GPT, corpora: dict[str, Corpus], begin: int,
                                                                    length: int) -> None:
    """Where the context is no more than half a window is read of: a new line, which is the start, and what follows."""
    corpus = corpora["shakespeare"]
    text = "\n" + corpus.test.text[:200].lstrip()
    piece = split_of(text, [Stretch(begin, begin + length, 0)], corpus.vocabulary, 32)
    whole = make_split(text[1:begin + length], corpus.vocabulary)
    for found, expected in zip(score_split(model, piece), score_split(model, whole), strict=True):
        torch.testing.assert_close(found, expected[begin - 1:], rtol=1e-5, atol=1e-5)


def test_pieces_are_scored_as_each_by_itself(model: GPT, split: Split) -> None:
    alone = [score_split(model, split.part([piece])).loss_N for piece in split.pieces]
    torch.testing.assert_close(score_split(model, split).loss_N, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_losses_by_context_are_those_of_all_targets_of_the_windows(trained: Checkpoint, split: Split) -> None:
    """Each window read by itself; the scored ones among them are the text's."""
    noisy = GPT(replace(trained.model_config, dropout=0.5), len(trained.vocabulary)).train()
    noisy.load_state_dict(trained.weights)
    predictions = window_logits(noisy, split)
    nats_N, before_N = predictions.nats_N, predictions.before_N
    assert noisy.training
    model, windows, expected = trained.build(), scoring_windows(split, 32).all(), []
    with torch.no_grad():
        for inputs_T, targets_T, _, inside_T in zip(*windows, strict=True):
            count = int(inside_T.sum())
            expected.append(F.cross_entropy(model(inputs_T[None, :count])[0], targets_T[:count], reduction="none"))
    torch.testing.assert_close(nats_N, torch.cat(expected), rtol=1e-4, atol=1e-4)
    assert before_N.tolist() == [place for nats_T in expected for place in range(len(nats_T))]
    scored_N = windows.scored_BT[windows.inside_BT]
    torch.testing.assert_close(nats_N[scored_N], score_split(model, split).loss_N)


@pytest.mark.parametrize("characters", [1, 32, 65, 96, 10**6])
def test_the_size_of_a_batch_changes_nothing(model: GPT, split: Split, characters: int,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    expected = score_split(model, split)
    monkeypatch.setattr(evaluation, "CHARACTERS_PER_BATCH", characters)
    for column, whole in zip(score_split(model, split), expected, strict=True):
        torch.testing.assert_close(column, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 48, 49])
def test_texts_around_the_length_of_the_context(model: GPT, trained: Checkpoint, split: Split, length: int) -> None:
    text = make_split(split.text[:length], split.vocabulary)
    result = evaluate(model, trained, text)
    assert result.n_characters == len(result.scores.loss_N) == length
    torch.testing.assert_close(result.scores.loss_N, one_at_a_time(model, text), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_reading_leaves_weights_mode_and_random_streams(trained: Checkpoint, split: Split, training: bool) -> None:
    model = trained.build().train(training)
    before, random = {name: t.clone() for name, t in model.state_dict().items()}, torch.get_rng_state()
    evaluate(model, trained, split)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training is training and all(module.training is training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_mode_comes_back_after_an_error(trained: Checkpoint, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    model = trained.build().train()
    monkeypatch.setattr(evaluation, "score", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        score_split(model, split)
    assert model.training


def test_dropout_does_not_act(trained: Checkpoint, split: Split) -> None:
    noisy = GPT(replace(trained.model_config, dropout=0.5), len(trained.vocabulary)).train()
    noisy.load_state_dict(trained.weights)
    assert torch.equal(score_split(noisy, split).loss_N, score_split(trained.build(), split).loss_N)


def test_the_numbers_are_those_of_the_single_characters(model: GPT, trained: Checkpoint, split: Split) -> None:
    """Every mean again, from the losses by a loop in plain Python."""
    result = evaluate(model, trained, split)
    counts = trained.character_counts_V.tolist()
    losses = [float(loss) for loss in result.scores.loss_N]
    seen, all_bits, unseen_bits = [], [], []
    for character, loss in zip(split.text, losses, strict=True):
        known = trained.vocabulary.index.get(character, UNKNOWN)
        cost = loss / math.log(2) + (8 * len(character.encode()) if known == UNKNOWN else 0)
        all_bits.append(cost)
        if known != UNKNOWN and counts[known]:
            seen.append(loss)
        else:
            unseen_bits.append(cost)
    assert 0 < len(unseen_bits) < len(losses)
    assert result.bits_per_byte == pytest.approx(sum(all_bits) / len(split.text.encode()), rel=1e-6)
    assert result.nats_per_character == pytest.approx(np.mean(losses), rel=1e-6)
    assert result.seen_loss_nats == pytest.approx(np.mean(seen), rel=1e-6)
    assert result.unseen_share == pytest.approx(len(unseen_bits) / len(losses))
    assert result.unseen_loss_share == pytest.approx(sum(unseen_bits) / sum(all_bits), rel=1e-6)
    assert result.overconfidence == pytest.approx(result.confidence - result.accuracy)
    assert (result.n_characters, result.n_bytes) == (len(split.text), len(split.text.encode()))
    assert result.row().keys() == result.__dataclass_fields__.keys() - {"scores", "bits_N"}
    assert result.bits_N.tolist() == pytest.approx(all_bits, rel=1e-6)
    assert all(isinstance(value, int | float) for value in result.row().values())


def test_calibration_is_that_of_the_single_predictions(trained: Checkpoint, split: Split) -> None:
    sharp = trained.build()
    sharp.head.weight.data *= 3
    result = evaluate(sharp, trained, split)
    confidence, wrong = result.scores.confidence_N.numpy(), result.scores.correct_N.numpy() == 0
    assert result.confidence_when_wrong == pytest.approx(confidence[wrong].mean(), rel=1e-6)
    assert result.sure_error_rate == pytest.approx(wrong[confidence > 0.9].mean(), rel=1e-6)
    entropy = result.scores.entropy_N.numpy()
    u = mannwhitneyu(entropy[wrong], entropy[~wrong]).statistic
    assert result.entropy_auroc == pytest.approx(u / (wrong.sum() * (~wrong).sum()), rel=1e-9)


def test_the_temperature_that_fits_a_text_makes_its_loss_least(model: GPT, trained: Checkpoint, split: Split) -> None:
    temperature = fit_temperature(window_logits(model, split).scored_logits_NV, split.ids_N.long())
    losses = [evaluate(model, trained, split, temperature * factor).tempered_nats for factor in (0.9, 1.0, 1.1)]
    assert min(losses) == losses[1] <= evaluate(model, trained, split).nats_per_character


def with_bias(shape: ModelConfig, vocabulary: Vocabulary, probability_V: Tensor) -> tuple[GPT, Checkpoint]:
    """A model that predicts `probability_V` whatever it has read: all it reads is one direction of ones."""
    model = GPT(shape, len(vocabulary)).eval()
    with torch.no_grad():
        model.embedding.weight.fill_(1.0)
        for block in model.blocks:
            block.attention.proj.weight.zero_()
            block.down.weight.zero_()
        model.head.weight.copy_(probability_V.log()[:, None] / shape.n_embd)
    return model, Checkpoint("made", 0, shape, vocabulary, model.state_dict(), torch.ones(len(vocabulary)).long())


TINY = ModelConfig(n_layer=1, n_head=1, n_embd=4, block_size=8)


def test_a_uniform_model_over_256_symbols_scores_8_bits_per_byte() -> None:
    vocabulary = Vocabulary("".join(chr(i) for i in range(1, 128)) + "".join(chr(0x4000 + i) for i in range(128)))
    model, checkpoint = with_bias(TINY, vocabulary, torch.full((256,), 1 / 256))
    result = evaluate(model, checkpoint, make_split("Any text at all, of single bytes.\n", vocabulary))
    assert result.bits_per_byte == pytest.approx(8.0, rel=1e-6)
    assert result.entropy_nats == pytest.approx(math.log(256), rel=1e-6)
    assert result.top5_mass == pytest.approx(5 / 256, rel=1e-6)
    assert result.confidence == pytest.approx(1 / 256, rel=1e-6)


def test_the_cost_of_an_unknown_character_is_that_of_unk_and_its_bytes() -> None:
    vocabulary = Vocabulary("ab")
    model, checkpoint = with_bias(TINY, vocabulary, torch.tensor([0.125, 0.625, 0.25]))
    for character, size in (("é", 2), ("漢", 3), ("𝔸", 4), ("X", 1)):
        result = evaluate(model, checkpoint, make_split(f"b{character}b", vocabulary))
        assert result.bits_per_byte * (2 + size) == pytest.approx(2 + (3 + 8 * size) + 2, rel=1e-5)
        assert result.unseen_share == pytest.approx(1 / 3)
        assert result.seen_loss_nats == pytest.approx(2 * math.log(2), rel=1e-5)
    alone = evaluate(model, checkpoint, make_split("é", vocabulary))
    assert math.isnan(alone.seen_loss_nats) and alone.unseen_share == alone.unseen_loss_share == 1


def test_code_lengths_with_escapes_are_a_valid_code() -> None:
    """Kraft: over all strings of one character, known or spelt out in bytes, 2^-length sums to at most 1."""
    vocabulary = Vocabulary("".join(map(chr, range(97, 123))))
    p_V = torch.rand(27, generator=torch.Generator().manual_seed(0)) + 0.05
    model, checkpoint = with_bias(TINY, vocabulary, p_V / p_V.sum())
    characters = [chr(i) for i in [*range(0x180), *range(0x4E00, 0x4E20)] if chr(i).isprintable()]
    total = 0.0
    for character in characters:
        result = evaluate(model, checkpoint, make_split(character, vocabulary))
        total += 2.0 ** -(result.bits_per_byte * result.n_bytes)
    known = 1 - float(p_V[0] / p_V.sum())
    assert known - 1e-5 < total <= 1 + 1e-6


def test_forgetting_a_character_never_makes_a_text_cheaper() -> None:
    """A vocabulary without `b` whose `<unk>` has the probability that `<unk>` and `b` had together."""
    text = "abbacab" * 9
    full, checkpoint = with_bias(TINY, Vocabulary("abc"), torch.tensor([0.0625, 0.4375, 0.25, 0.25]))
    poor, other = with_bias(TINY, Vocabulary("ac"), torch.tensor([0.3125, 0.4375, 0.25]))
    known = evaluate(full, checkpoint, make_split(text, checkpoint.vocabulary))
    forgotten = evaluate(poor, other, make_split(text, other.vocabulary))
    assert forgotten.nats_per_character < known.nats_per_character
    assert forgotten.bits_per_byte > known.bits_per_byte + 1


def relabelled(checkpoint: Checkpoint, rename: Callable[[str], str]) -> Checkpoint:
    """The same model where every character has another name, and so another place in the sorted vocabulary."""
    old = checkpoint.vocabulary
    new = Vocabulary("".join(sorted(map(rename, old.characters))))
    origin_V = torch.tensor([UNKNOWN, *(old.index[back] for back in
                                        sorted(old.characters, key=lambda c: new.index[rename(c)]))])
    weights = {name: tensor[origin_V] if name in ("embedding.weight", "head.weight") else tensor
               for name, tensor in checkpoint.weights.items()}
    counts_V = checkpoint.character_counts_V[origin_V]
    return replace(checkpoint, vocabulary=new, weights=weights, character_counts_V=counts_V)


def test_relabelling_the_vocabulary_changes_nothing(trained: Checkpoint, corpora: dict[str, Corpus]) -> None:
    names = trained.vocabulary.characters
    assert names[0] == "\n"

    def rename(character: str) -> str:
        """Backwards, but for the new line that stands before every text."""
        return character if character == "\n" or character not in names else names[-names.index(character)]

    twin, text = relabelled(trained, rename), corpora["shakespeare"].test.text[:700]
    first = evaluate(trained.build(), trained, make_split(text, trained.vocabulary))
    second = evaluate(twin.build(), twin, make_split("".join(map(rename, text)), twin.vocabulary))
    same = {"n_characters", "nats_per_character", "entropy_nats", "accuracy", "unseen_share", "calibration_error"}
    assert {name: second.row()[name] for name in same} == pytest.approx({name: first.row()[name] for name in same},
                                                                        rel=1e-5)
    assert not torch.equal(trained.weights["head.weight"], twin.weights["head.weight"])
    bits = [result.bits_per_byte * result.n_bytes for result in (first, second)]
    assert bits[0] == pytest.approx(bits[1], rel=1e-5)


def test_training_makes_the_own_text_cheaper_than_the_untrained_model(checkpoints: list[Checkpoint],
                                                                      corpora: dict[str, Corpus]) -> None:
    text = corpora["shakespeare"].test
    untrained, trained = (evaluate(c.build(), c, text) for c in (checkpoints[0], checkpoints[-1]))
    assert untrained.nats_per_character == pytest.approx(math.log(len(text.vocabulary)), rel=0.02)
    assert trained.bits_per_byte < untrained.bits_per_byte - 1
    assert trained.entropy_nats < untrained.entropy_nats


def test_a_text_of_another_vocabulary_or_none_is_refused_in_one_line(model: GPT, trained: Checkpoint) -> None:
    other = make_split("abc", Vocabulary("abc"))
    for split, message in ((other, r"text must be encoded with the model's vocabulary \(\w{12}…\), got \w{12}…$"),
                           (make_split("", trained.vocabulary), "text must have at least one character, got 0$")):
        with pytest.raises(ValueError, match=message) as caught:
            evaluate(model, trained, split)
        assert "\n" not in str(caught.value)


def test_the_top_characters_are_those_of_a_forward_pass(model: GPT, trained: Checkpoint) -> None:
    prompt, count = "To be, or not", 4
    rows = top_characters(model, trained, prompt, count)
    assert len(rows) == len(prompt) * count
    with torch.no_grad():
        p_TV = model(trained.vocabulary.encode(prompt)[None])[0].softmax(-1).numpy()
    for row in rows:
        i, rank = row["position"], row["rank"]
        assert isinstance(i, int) and isinstance(rank, int)
        order = np.argsort(-p_TV[i], kind="stable")
        assert row["probability"] == pytest.approx(p_TV[i][order[rank - 1]], rel=1e-5)
        assert row["entropy_nats"] == pytest.approx(-(p_TV[i] * np.log(p_TV[i])).sum(), rel=1e-5)
        assert row["character"] == prompt[i] and row["target"] == (prompt[i + 1] if i + 1 < len(prompt) else None)
        candidate = trained.vocabulary.encode(str(row["candidate"])).item()
        assert p_TV[i][candidate] == pytest.approx(row["probability"], rel=1e-5)


def test_top_characters_of_long_and_empty_prompts(model: GPT, trained: Checkpoint) -> None:
    long = "It was the best of times, it was the worst of times"
    assert top_characters(model, trained, long, 2) == top_characters(model, trained, long[-32:], 2)
    assert len(top_characters(model, trained, "ab", 10**6)) == 2 * len(trained.vocabulary)
    assert top_characters(model, trained, "", 3) == []


def test_calibration_of_labels_that_the_model_itself_wrote(model: GPT, trained: Checkpoint,
                                                           corpora: dict[str, Corpus]) -> None:
    """Accuracy equals confidence, and loss equals entropy, within sampling error."""
    generator = torch.Generator().manual_seed(0)
    inputs_BT = corpora["shakespeare"].test.ids_N[:1600].long().view(50, 32)
    with torch.no_grad():
        logits_NV = model(inputs_BT).flatten(0, 1)
    labels_N = torch.multinomial(logits_NV.softmax(-1), 1, generator=generator).squeeze(1)
    scores = score(logits_NV, labels_N)
    assert float(scores.confidence_N.mean()) == pytest.approx(float(scores.correct_N.mean()), abs=0.04)
    assert float(F.cross_entropy(logits_NV, labels_N)) == pytest.approx(float(scores.entropy_N.mean()), abs=0.1)
