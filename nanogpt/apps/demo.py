"""A local page: each domain's model goes on from a prompt, at any checkpoint, and shows what it was looking at."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.serving import BaseWSGIServer, make_server

from nanogpt.attribution.maps import attribute
from nanogpt.errors import require
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.generate import Sampling, generate, top_characters
from nanogpt.model.gpt import GPT
from nanogpt.report.style import domain_colors
from nanogpt.serving.pyfunc import THREADS, cpu_threads, positions, targets
from nanogpt.text.sources import DOMAINS
from nanogpt.tracking import registry
from nanogpt.tracking.registry import Version

MOST_CHARACTERS = 500
LISTED = 5
HEADERS = {"Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src data:", "Cache-Control": "no-store"}


def ladders(versions: Sequence[Version]) -> dict[str, dict[int, str]]:
    """Domain to step to URI, of each domain's newest training; adapted models are left out. In a study's order."""
    newest: dict[str, str] = {}
    for version in versions:
        if "parent" not in version.tags:
            newest[version.tags["domain"]] = version.run_id
    return {domain: {int(v.tags["step"]): v.uri for v in versions
                     if v.run_id == run_id and v.tags.get("domain") == domain and "parent" not in v.tags}
            for domain, run_id in sorted(newest.items(), key=lambda item: [*DOMAINS, item[0]].index(item[0]))}


@functools.lru_cache(maxsize=64)
def opened(uri: str) -> tuple[Checkpoint, GPT]:
    checkpoint = registry.load(uri)
    return checkpoint, checkpoint.build()


def write(uri: str, prompt: str, asked: Mapping[str, Any]) -> str:
    """What the model writes after the prompt."""
    checkpoint, model = opened(uri)
    characters = int(asked.get("characters", 80))
    require(0 <= characters <= MOST_CHARACTERS, f"characters must be in [0, {MOST_CHARACTERS}]", characters)
    sampling = Sampling(float(asked.get("temperature", 0.8)))
    return generate(model, checkpoint.vocabulary, [prompt], characters, sampling=sampling,
                    seeds=int(asked.get("seed", 1)))[0]


def read(uri: str, text: str) -> dict[str, Any]:
    """For each character that the context holds: what was likely before it, and what its prediction rested on.

    Both lists have an entry for the prediction after each character; the last one is that of the text's next one.
    """
    checkpoint, model = opened(uri)
    (found,) = attribute(model, checkpoint, [text])
    return {"text": found.prompt, "unknown": found.unknown,
            "positions": positions(top_characters(model, checkpoint, text, LISTED)),
            "targets": targets(found)}


def create_app(versions: Sequence[Version]) -> Flask:
    """The page `/` and its two questions, `/write` and `/read`. UserError where no training is registered."""
    known = ladders(versions)
    require(bool(known), "registry must hold at least one training: run `mlflow run .` first", [])
    steps = sorted({step for ladder in known.values() for step in ladder})
    app = Flask(__name__)

    def version_at(asked: Mapping[str, Any]) -> tuple[int, str]:
        """The newest checkpoint of a domain at or before a step, or its first."""
        require(asked.get("domain") in known, f"domain must be one of {', '.join(known)}", asked.get("domain"))
        ladder = known[asked["domain"]]
        step = max((s for s in ladder if s <= int(asked.get("step", steps[-1]))), default=min(ladder))
        return step, ladder[step]

    def page() -> Response:
        return Response(Path(__file__).with_name("demo.html").read_text("utf-8"), mimetype="text/html", headers=HEADERS)

    def about() -> Response:
        return jsonify(domains=domain_colors(known), steps=steps)

    def answer(question: str) -> tuple[Response, int] | Response:
        asked = request.get_json()
        try:
            step, uri = version_at(asked)
            with cpu_threads(THREADS):
                if question == "write":
                    return jsonify(step=step, text=write(uri, str(asked.get("prompt", "")), asked))
                return jsonify(step=step, **read(uri, str(asked.get("prompt", ""))))
        except (ValueError, TypeError) as error:
            return jsonify(error=str(error)), 400

    app.add_url_rule("/", view_func=page)
    app.add_url_rule("/about", view_func=about)
    app.add_url_rule("/<any(write, read):question>", view_func=answer, methods=["POST"])
    return app


def create_server(versions: Sequence[Version], port: int) -> BaseWSGIServer:
    """The page on this machine alone; port 0 takes a free one."""
    return make_server("127.0.0.1", port, create_app(versions), threaded=True)
