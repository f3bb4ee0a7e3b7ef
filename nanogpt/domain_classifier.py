"""Which domain a passage reads like: naive Bayes over counts of its character n-grams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import Pipeline, make_pipeline

from nanogpt.corpus import Corpus

TRAINING_PASSAGES, HELD_OUT_PASSAGES = 600, 200
"""Of each domain, evenly spaced over its training and its validation text."""


@dataclass(frozen=True)
class DomainClassifier:
    pipeline: Pipeline
    accuracy: float      # on held-out passages

    def domains_of(self, texts: Sequence[str]) -> list[str]:
        return self.pipeline.predict(list(texts)).tolist() if texts else []


def fit_classifier(corpora: Mapping[str, Corpus], characters: int) -> DomainClassifier:
    """Learn from passages of `characters` of the training texts; accuracy is measured on the validation texts."""
    pipeline = make_pipeline(CountVectorizer(analyzer="char", ngram_range=(1, 3), lowercase=False), MultinomialNB())
    pipeline.fit(*labelled({name: corpus.train.text for name, corpus in corpora.items()}, characters,
                           TRAINING_PASSAGES))
    held_out = labelled({name: corpus.validation.text for name, corpus in corpora.items()}, characters,
                        HELD_OUT_PASSAGES)
    return DomainClassifier(pipeline, float(pipeline.score(*held_out)))


def labelled(texts: Mapping[str, str], characters: int, count: int) -> tuple[list[str], list[str]]:
    """At most `count` passages of each text that do not overlap, and the name of each one's text."""
    passages, names = [], []
    for name, text in texts.items():
        stride = max(characters, len(text) // count)
        found = [text[begin:begin + characters] for begin in range(0, max(1, len(text) - characters + 1), stride)]
        passages += found
        names += [name] * len(found)
    return passages, names
