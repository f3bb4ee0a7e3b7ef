"""What models wrote, as rows: who finds it likely, what is copied, and whether prompt or model chose its domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from nanogpt.checkpoint import Checkpoint
from nanogpt.corpus import Corpus
from nanogpt.distance import shared_spans
from nanogpt.domain_classifier import fit_classifier
from nanogpt.model import GPT
from nanogpt.study import Row
from nanogpt.writing import COPIED_SPAN, distinct_share, repeated_share, score_texts


def writing_rows(generations: Sequence[Row], scorers: Sequence[tuple[GPT, Checkpoint]],
                 corpora: Mapping[str, Corpus], characters: int) -> Iterator[Row]:
    """One row for each row of `generations`, texts of `characters`; every one of `scorers` reads all of them.

    A loss is that of the written characters after the prompt. Entropy is that of the writer, where it is a scorer.
    """
    classifier = fit_classifier(corpora, characters)
    written = classifier.domains_of([row["text"] for row in generations])
    copied = copied_shares(generations, corpora)
    scored = {checkpoint.domain: (checkpoint.step, *score_texts(model, checkpoint.vocabulary, [
        row["prompt"] + row["text"] for row in generations])) for model, checkpoint in scorers}
    for i, row in enumerate(generations):
        span = slice(len(row["prompt"]), len(row["prompt"]) + len(row["text"]))
        step, _, entropy_BT = scored.get(row["source"], (-1, None, None))
        yield ({name: row[name] for name in ("source", "step", "stage", "prompt_domain", "prompt", "temperature",
                                             "seed")}
               | {f"nats_under_{name}": float(loss_BT[i, span].mean()) for name, (_, loss_BT, _) in scored.items()}
               | halves(entropy_BT[i, span] if entropy_BT is not None and step == row["step"] else None)
               | {"copied_share": copied[i], "distinct_share": distinct_share(row["text"]),
                  "repeated_share": repeated_share(row["text"]), "written_domain": written[i],
                  "classifier_accuracy": classifier.accuracy})


def halves(entropy_T: Tensor | None) -> Row:
    """Mean entropy of the first and of the second half of a text: whether the writer grows surer."""
    first, second = (None, None) if entropy_T is None else (
        float(part.mean()) for part in entropy_T.tensor_split(2))
    return {"entropy_first_half_nats": first, "entropy_second_half_nats": second}


def copied_shares(generations: Sequence[Row], corpora: Mapping[str, Corpus]) -> list[float]:
    """Of each text, what lies in spans of COPIED_SPAN characters of the training text of its writer's domain."""
    shares = [float("nan")] * len(generations)
    for name, corpus in corpora.items():
        places = [i for i, row in enumerate(generations) if row["source"] == name]
        texts = [generations[i]["text"] for i in places]
        for i, shared_N in zip(places, shared_spans(corpus.train.text, texts, COPIED_SPAN), strict=True):
            shares[i] = float(shared_N.double().mean())
    return shares
