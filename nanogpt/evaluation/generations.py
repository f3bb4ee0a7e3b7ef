"""Texts that models write from prompts, and what is measured on them, as tidy rows.

How likely each model finds a text, how varied it is, how its entropy drifts, what is copied from the training text,
and which domain it reads like. Shape suffix: T positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import Pipeline, make_pipeline
from torch import Tensor

from nanogpt.config import Config, Row
from nanogpt.evaluation.evaluate import score_split
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.generate import Sampling, generate
from nanogpt.model.gpt import GPT
from nanogpt.text.corpus import Corpus, Split, joined, make_split
from nanogpt.text.overlap import MOST_COMPARED, shared_spans
from nanogpt.text.vocabulary import Vocabulary

DISTINCT, REPEATED = 3, 8
"""Lengths of the n-grams whose variety, and whose return, are counted."""
COPIED_SPAN = 20
"""Characters in a row that a text must share with the training text to count as copied."""
TRAINING_PASSAGES, HELD_OUT_PASSAGES = 600, 200
"""Of each domain, evenly spaced over its training and its validation text."""


def generations(model: GPT, checkpoint: Checkpoint, prompts: Sequence[tuple[str, str]], config: Config,
                source: Row) -> Iterator[Row]:
    """Yield a row for each prompt and temperature, all from the study's seed."""
    for temperature in config.analysis.temperature_values:
        texts = generate(model, checkpoint.vocabulary, [prompt for _, prompt in prompts],
                         config.analysis.generate_characters, sampling=Sampling(temperature), seeds=config.seed)
        for (domain, prompt), text in zip(prompts, texts, strict=True):
            yield source | {"prompt_domain": domain, "prompt": prompt, "temperature": temperature,
                            "seed": config.seed, "text": text}


def writing_rows(generations: Sequence[Row], scorers: Sequence[tuple[GPT, Checkpoint]],
                 corpora: Mapping[str, Corpus], characters: int) -> Iterator[Row]:
    """Yield a row for each row of `generations`, texts of `characters`; every one of `scorers` reads all of them.

    A loss is that of the written characters after the prompt. Entropy is that of the writer, where it is a scorer.
    """
    classifier = fit_classifier(corpora, characters)
    resembled_domains = classifier.domains_of([row["text"] for row in generations])
    copied = copied_shares(generations, corpora)
    scored = {checkpoint.domain: (writer_of(checkpoint), *score_texts(model, checkpoint.vocabulary, [
        row["prompt"] + row["text"] for row in generations])) for model, checkpoint in scorers}
    for i, row in enumerate(generations):
        span = slice(len(row["prompt"]), len(row["prompt"]) + len(row["text"]))
        writer, _, entropies = scored.get(row["source"], (None, None, None))
        is_writer = writer == (row["training_seed"], row["step"])
        yield ({name: row[name] for name in ("source", "training_seed", "step", "stage", "prompt_domain", "prompt",
                                             "temperature", "seed")}
               | {f"nats_under_{name}": float(losses[i][span].mean()) for name, (_, losses, _) in scored.items()}
               | entropy_by_half(entropies[i][span] if entropies is not None and is_writer else None)
               | {"copied_share": copied[i], "distinct_share": distinct_share(row["text"]),
                  "repeated_share": repeated_share(row["text"]), "written_domain": resembled_domains[i],
                  "classifier_accuracy": classifier.accuracy})


def writer_of(checkpoint: Checkpoint) -> tuple[int, int]:
    """Name the model among those of its domain: its training's seed and its step."""
    return int(checkpoint.notes.get("seed", -1)), checkpoint.step


def entropy_by_half(entropy_T: Tensor | None) -> Row:
    """Return the mean entropy of the first and of the second half of a text: whether the writer grows surer."""
    first, second = (None, None) if entropy_T is None else (
        float(part.mean()) for part in entropy_T.tensor_split(2))
    return {"entropy_first_half_nats": first, "entropy_second_half_nats": second}


def copied_shares(generations: Sequence[Row], corpora: Mapping[str, Corpus]) -> list[float]:
    """Return what share of each text lies in spans of COPIED_SPAN characters of the training text of its writer.

    Of a longer one that is a sample of MOST_COMPARED characters.
    """
    shares = [float("nan")] * len(generations)
    for name, corpus in corpora.items():
        places = [i for i, row in enumerate(generations) if row["source"] == name]
        texts = [generations[i]["text"] for i in places]
        read = corpus.train.spread(MOST_COMPARED)
        for i, shared_N in zip(places, shared_spans(read.stretches(), texts, COPIED_SPAN), strict=True):
            shares[i] = float(shared_N.double().mean())
    return shares


def score_texts(model: GPT, vocabulary: Vocabulary, texts: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
    """Return loss and entropy (T,) of each character of each text, nats; every text is read by itself."""
    splits = [make_split(text, vocabulary) for text in texts]
    scores, lengths = score_split(model, joined(splits)), [len(text) for text in texts]
    return list(scores.loss_N.split(lengths)), list(scores.entropy_N.split(lengths))


def distinct_share(text: str, length: int = DISTINCT) -> float:
    """Return different n-grams over all of them, in (0, 1] (Li et al. 2016, arXiv:1510.03055); 1 without any."""
    grams = [text[i:i + length] for i in range(len(text) - length + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repeated_share(text: str, length: int = REPEATED) -> float:
    """Return the share of the n-grams that stood in the text before, in [0, 1)."""
    return 1 - distinct_share(text, length)


@dataclass(frozen=True)
class DomainClassifier:
    """Tells by character n-grams which domain a text reads like."""

    pipeline: Pipeline
    accuracy: float      # on held-out passages

    def domains_of(self, texts: Sequence[str]) -> list[str]:
        """Return the name of the domain that each text reads like."""
        return self.pipeline.predict(list(texts)).tolist() if texts else []


def fit_classifier(corpora: Mapping[str, Corpus], characters: int) -> DomainClassifier:
    """Learn from passages of `characters` of the training texts; accuracy is measured on the validation texts."""
    pipeline = make_pipeline(CountVectorizer(analyzer="char", ngram_range=(1, 3), lowercase=False), MultinomialNB())
    pipeline.fit(*labelled_passages({name: corpus.train for name, corpus in corpora.items()}, characters,
                                    TRAINING_PASSAGES))
    held_out = labelled_passages({name: corpus.validation for name, corpus in corpora.items()}, characters,
                                 HELD_OUT_PASSAGES)
    return DomainClassifier(pipeline, float(pipeline.score(*held_out)))


def labelled_passages(splits: Mapping[str, Split], characters: int, count: int) -> tuple[list[str], list[str]]:
    """Return at most `count` passages of each split that do not overlap, and the name of each one's split."""
    passages, names = [], []
    for name, split in splits.items():
        stride = max(characters, len(split) // count)
        starts = range(0, max(1, len(split) - characters + 1), stride)
        passages += [split.characters(start, start + characters) for start in starts]
        names += [name] * len(starts)
    return passages, names
