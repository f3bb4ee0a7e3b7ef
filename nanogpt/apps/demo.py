"""A local page: each domain's model goes on from a prompt, at any checkpoint, and shows what it rests on."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flask import Flask, Response, jsonify, request
from werkzeug.serving import BaseWSGIServer, make_server

from nanogpt.apps.guards import client_waits, guard, question_of
from nanogpt.attribution.maps import attribute
from nanogpt.errors import UserError, require
from nanogpt.evaluation.evaluate import mean_losses, score_split
from nanogpt.model.allocator import keep_freed_memory
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.generate import Sampling, texts_of, top_characters, writing
from nanogpt.model.gpt import GPT
from nanogpt.report.style import domain_colors
from nanogpt.serving.pyfunc import MOST_PROMPT_CHARACTERS, THREADS, cpu_threads, positions, targets
from nanogpt.serving.turns import TURNS, Interrupted
from nanogpt.text.corpus import make_split
from nanogpt.text.sources import DOMAINS
from nanogpt.tracking import registry
from nanogpt.tracking.registry import Version

MOST_NEW_CHARACTERS = 500
LISTED = 5
Number = TypeVar("Number", int, float)
MODELS_KEPT = 16


def ladders(versions: Sequence[Version]) -> dict[str, dict[int, str]]:
    """Map domain to step to URI, of each domain's newest training, in a study's order.

    Adapted models and models that others registered under such a name are left out.
    """
    trained = [version for version in versions
               if "domain" in version.tags and version.tags.get("step", "").isdecimal()
               and "parent" not in version.tags]
    newest = {version.tags["domain"]: version.run_id for version in trained}
    return {domain: {int(version.tags["step"]): version.uri for version in trained
                     if version.run_id == run_id and version.tags["domain"] == domain}
            for domain, run_id in sorted(newest.items(), key=lambda item: [*DOMAINS, item[0]].index(item[0]))}


@functools.lru_cache(maxsize=MODELS_KEPT)
def opened(uri: str) -> tuple[Checkpoint, GPT]:
    checkpoint = registry.load(uri)
    return checkpoint, checkpoint.build()


def read_number(question: Mapping[str, Any], name: str, default: Number) -> Number:
    """Read a number of a question, of the type of its default. UserError where it is none."""
    kind: Callable[[Any], Number] = type(default)
    try:
        return kind(str(question.get(name, default)))
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"{name} must be a number, got {question[name]!r}") from None


def read_text(question: Mapping[str, Any], name: str) -> str:
    """Read a text of a question, '' where it is left out. UserError where it is none, or too long."""
    text = question.get(name, "")
    require(isinstance(text, str), f"{name} must be a text", text)
    require(len(text) <= MOST_PROMPT_CHARACTERS, f"{name} must have at most {MOST_PROMPT_CHARACTERS} characters",
            len(text))
    return str(text)


def write(uri: str, prompt: str, question: Mapping[str, Any], goes_on: Callable[[], bool] = lambda: True) -> str:
    """Write what the model goes on with after the prompt, for as long as `goes_on` says yes: Interrupted after that."""
    checkpoint, model = opened(uri)
    characters = read_number(question, "characters", 80)
    require(0 <= characters <= MOST_NEW_CHARACTERS, f"characters must be in [0, {MOST_NEW_CHARACTERS}]", characters)
    sampling = Sampling(read_number(question, "temperature", 0.8))
    steps = writing(model, checkpoint.vocabulary, [prompt], characters, sampling=sampling,
                    seeds=read_number(question, "seed", 1))
    return texts_of(list(TURNS.in_turns(steps, goes_on)), 1)[0]


def read(uri: str, text: str) -> dict[str, Any]:
    """Say for each character that the context holds what was likely before it, and what its prediction rested on.

    Both lists have an entry for the prediction after each character; the last one is that of the text's next one.
    """
    checkpoint, model = opened(uri)

    def answer() -> Iterator[dict[str, Any]]:
        (result,) = attribute(model, checkpoint, [text])
        yield {"text": result.prompt, "unknown": result.unknown,
               "positions": positions(top_characters(model, checkpoint, text, LISTED)),
               "targets": targets(result)}

    return next(TURNS.in_turns(answer()))


def score(uri: str, text: str) -> float:
    """Return the bits per byte that the model pays for a text, as a study scores one. UserError where it is empty."""
    checkpoint, model = opened(uri)
    require(text != "", "prompt must have at least one character", text)
    split = make_split(text, checkpoint.vocabulary)

    def answer() -> Iterator[float]:
        yield mean_losses(score_split(model, split).loss_N, split)[0]

    return next(TURNS.in_turns(answer()))


def create_app(versions: Sequence[Version]) -> Flask:
    """Make the page `/` and its questions `/write`, `/read`, `/score`. UserError where no training is registered."""
    known = ladders(versions)
    require(bool(known), "registry must hold at least one training: run `mlflow run .` first", [])
    steps = sorted({step for ladder in known.values() for step in ladder})
    app = Flask(__name__)
    guard(app)

    def version_at(domain: str, step: int) -> tuple[int, str]:
        """Find the newest checkpoint of a domain at or before a step, or its first."""
        require(domain in known, f"domain must be one of {', '.join(known)}", domain)
        at = max((s for s in known[domain] if s <= step), default=min(known[domain]))
        return at, known[domain][at]

    def page() -> Response:
        return Response(Path(__file__).with_name("demo.html").read_text("utf-8"), mimetype="text/html")

    def about() -> Response:
        return jsonify(domains=list(domain_colors(known).items()), steps=steps)     # a list keeps its order

    def answer(kind: str) -> tuple[Response, int] | Response:
        try:
            question, connection = question_of(request), request.environ.get("werkzeug.socket")
            step, uri = version_at(read_text(question, "domain"), read_number(question, "step", steps[-1]))
            prompt = read_text(question, "prompt")
            with cpu_threads(THREADS):
                if kind == "write":
                    written = write(uri, prompt, question, lambda: client_waits(connection))
                    return jsonify(step=step, text=written)
                if kind == "score":
                    return jsonify(step=step, bits_per_byte=score(uri, prompt))
                return jsonify(step=step, **read(uri, prompt))
        except UserError as error:
            return jsonify(error=str(error)), 400
        except Interrupted as error:
            return jsonify(error=str(error)), 503

    app.add_url_rule("/", view_func=page)
    app.add_url_rule("/about", view_func=about)
    app.add_url_rule("/<any(write, read, score):kind>", view_func=answer, methods=["POST"])
    return app


def create_server(versions: Sequence[Version], port: int) -> BaseWSGIServer:
    """Serve the page on this machine alone; port 0 takes a free one. UserError where the port cannot be had."""
    keep_freed_memory()
    app = create_app(versions)
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:    # werkzeug would end the program
        raise UserError(f"port must be a free one in [0, 65535], got {port} ({error})") from error
    with listener:
        return make_server("127.0.0.1", port, app, threaded=True, fd=listener.fileno())
