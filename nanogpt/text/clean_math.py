"""From docstrings and from Hardy's TeX to mathematical prose; `clean_prose.tidy` is what all cleaners share."""

from __future__ import annotations

import re
from itertools import pairwise

from nanogpt.text.clean_prose import tidy

API_SECTIONS = re.compile(
    "parameters|returns?|see also|references?|raises|attributes|yields|usage|methods|(?:keyword )?arg(?:ument)?s"
    "|options|doctests?|input|output|syntax|signature|authors?|todo|imports|tests"
    "|possible issues", re.IGNORECASE)  # fmt: skip
DOCTEST = re.compile(r"^ *>>> .*\n(?:(?! *$).*\n?)*", re.MULTILINE)
ROLE = re.compile(r":(?:\w+:)?(\w+):`([^`]*)`")


def clean_docstring(docstring: str) -> str:
    """Return the mathematical prose of a docstring in reStructuredText, formulas as LaTeX; `""` if it has none.

    Left out: doctests, the paragraph that announces one by its last colon, code blocks, lists of an API (the sections
    of `API_SECTIONS`), field lists, citations, tables and drawings, and paragraphs without a whole sentence.
    `:math:` and bare back-quotes become `$...$`, a `math` block becomes `\\[ ... \\]`, other roles and quotes
    leave their words.
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
    """Return a `math` block as `\\[ ... \\]`."""
    lines = [line.strip() for line in match.group(1).split("\n") if line.strip()]
    return "\n\n\\[\n" + "\n".join(lines) + "\n\\]\n\n" if lines else "\n"


def _role(match: re.Match[str]) -> str:
    """Return the words of a role; those of `:math:` as `$...$`."""
    words = re.sub(r"\s*<[^>]*>$", "", match.group(2))
    return f"${words}$" if match.group(1) == "math" else words.rpartition(".")[2] if words.startswith("~") else words


def _prose_paragraphs(text: str) -> str:
    """Return the paragraphs that are sentences, or formulas between sentences.

    In the marked docstring \\u0001 stands before a heading and \\u0002 for a doctest.
    """
    kept: list[str] = []
    skipping = False
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    for paragraph, following in pairwise([*paragraphs, ""]):
        block = "\n".join(line.strip() for line in paragraph.split("\n") if line.strip())
        if block.startswith("\u0001"):
            skipping = bool(API_SECTIONS.fullmatch(block[1:].strip(" :*")))
            continue
        formula = block.startswith("\\[")
        code = paragraph.startswith("    ") and "$" not in paragraph and "\\" not in paragraph
        if block.endswith(":") and not following.lstrip().startswith("\\["):
            block = block.rstrip(": ") + "."
        symbols = len(re.findall(r"[|+=_<>#~^/()\[\]{}-]", re.sub(r"\$[^$]*\$", "", block))) > len(block) * 0.08
        sentence = (
            re.match(r"[A-Za-z$\"(]" if kept and kept[-1].startswith("\\[") else r"[A-Z$\"(]", block)
            and re.search(r"[.:;!?,][)\"]?$", block)
            and len(block) >= 60
        )
        stained = re.search(r"[\u0001\u0002]|>>>|^[:|]|::|https?:|`", block)
        if not (skipping or stained) and ((formula and kept) or (sentence and not (code or symbols))):
            kept.append(block)
    while kept and kept[-1].endswith(":"):
        kept.pop()
    return tidy("\n\n".join(kept))


# an edition's macros: names, whether an optional argument comes first, arguments in braces, what they become
TEX_MACROS: dict[str, tuple[bool, int, str]] = {
    name: (optional, n_arguments, becomes)
    for names, optional, n_arguments, becomes in (
        ("PageSep DPnote label thispagestyle", False, 1, ""), ("PageLabel", True, 1, ""), ("setlength", False, 2, ""),
        ("Figure Graphic", True, 2, ""), ("Figures", False, 6, ""), ("Strut Hang displaybreak", True, 0, ""),
        ("Loosen ds longpage centering hfill clearpage vfill BackMatter null noindent bigskip upshape", False, 0, ""),
        ("protect", False, 0, ""),
        ("normalfont footnotesize small footnotemark MS", False, 0, ""), ("MC", False, 0, ","), ("ia", False, 0, "a"),
        ("First Add Eq Inum Item Itemp SubItem TEntry Section Par textsc smash", False, 1, "{1}"),
        ("Squeeze", True, 1, "{1}"),
        ("Emph Topic", False, 1, "\\emph{{{1}}}"), ("DPtypo DPchg DPmod", False, 2, "{2}"), ("ib", False, 0, "b"),
        ("Seg Repeat", False, 1, "\\overline{{{1}}}"), ("ic", False, 0, "c"), ("id", False, 0, "d"),
        ("ie", False, 0, "i.e."),
        ("sqrtp sqrtb sqrtbr bigsqrt bigsqrtb bigsqrtp", False, 0, "\\sqrt"), ("eg", False, 0, "e.g."),
        ("Ie", False, 0, "I.e."),
        ("Ref PageRef", False, 2, "{1} {2}"), ("CenterLine CenterDef", True, 2, "\n{1} {2}\n"),
        ("SecNo", True, 1, "{0} {1}"),
        ("Chapter", True, 2, "\n\nCHAPTER {1}\n\n{2}\n\n"), ("Appendix", False, 3, "\n\nAPPENDIX {1}\n\n{3}\n\n"),
        ("Paragraph", False, 1, "\n\n{1}"), ("Ex", False, 1, "Ex. {1}"), ("Exs", True, 1, "Exs. {1}"),
        ("Fig", False, 1, "Fig. {1}"),
        ("MiscEx", False, 1, "Misc. Ex."), ("MiscExs", False, 1, "Misc. Exs."),
        ("MathTrip", False, 1, "(Math. Trip. {1})"),
        ("Tag", False, 1, "\\tag*{{{1}}}"), ("footnotetext", False, 1, "\\footnote{{{1}}}"),
        ("continued", False, 0, "continued"),
        ("dd", False, 0, "\\partial "), ("tsum", False, 0, "\\sum"), ("btw", False, 0, ")("), ("PgNo", True, 1, "{1}"),
        ("DELTA", False, 0, "\\epsilon "), ("EPSILON", False, 0, "\\delta "), ("ifthenelse", False, 3, "{2}"),
    )
    for name in names.split()
}  # fmt: skip
TEX_NAME = re.compile(r"\\([A-Za-z]+)")


def clean_hardy(source: str) -> str:
    """Return Hardy's *Course of Pure Mathematics* from Project Gutenberg's TeX, its mathematics as LaTeX.

    Kept: Chapters I to X and the appendices. Left out: everything before `\\MainMatter` (licence, preamble, contents)
    and after the text of the last appendix; comments, page marks, figures, spacing. The edition's own macros become
    what they stand for, in its modernised reading. ValueError without `\\MainMatter` and `\\PGLicense`.
    """
    text = tidy(source)
    start, end = text.find("\n\\MainMatter\n"), text.find("\n\\PGLicense\n")
    if not 0 <= start < end:
        raise ValueError(
            "Hardy's TeX must hold \\MainMatter before \\PGLicense on lines of their own, got a text without them"
        )
    text = text[start + len("\n\\MainMatter\n") : end]
    text = text[: text.rfind("\\PageSep{")]
    text = re.sub(r"(?m)^\\PageSep\{\w+\}\n", "", text)
    text = re.sub(r"(?<!\\)%.*\n[ ]*|(?<=\n)%.*\n", "", text)
    for name in ("Loosen", "upshape", "small", "footnotesize"):
        text = _without_group(text, "{\\" + name)
    for _ in range(6):
        text = _expand(text)
    text = re.sub(r"\\begin\{Examples\}\{\}", "Miscellaneous Examples.\n", text)
    text = re.sub(r"\\begin\{Examples\}\{(.*?)\}", r"\nExamples \1\n", text)
    text = re.sub(r"\\begin\{(Theorem|Corollary|Cor|Definitions?)\}(?:\[(.*?)\])?", r"\1 \2", text)
    text = re.sub(r"\\begin\{figure\}.*?\\end\{figure\}", "", text, flags=re.DOTALL)
    text = re.sub(r"\\begin\{ParTheorem\}\{(.*?)\}\n", r"\1 ", text)
    layout = "Theorem|Corollary|Cor|Definitions?|Examples|Remark|Result|Defn|Construction|ParTheorem|minipage|center"
    layout += "|quotation"
    text = re.sub(r"\\(?:begin|end)\{(?:" + layout + r")\}(?:\[.*?\])?(?:\{.*?\})?", "", text)
    text = re.sub(r"\\([()])", r"\1", re.sub(r"\\@|\\/|\\-", "", text))
    text = re.sub(r"(?<!\\)~|(?<=[.\w])\\ ", " ", text)
    return tidy(re.sub(r"(?<=\S) {2,}(?=\S)", " ", re.sub(r"\n +(?=\n)", "\n", text)))


def _without_group(text: str, opening: str) -> str:
    """Remove `opening` and the brace that closes it: `{\\Loosen words}` becomes `words`."""
    at = text.find(opening)
    while at >= 0:
        end = _closing(text, at)
        text = text[:at] + text[at + len(opening) : end].lstrip(" ") + text[end + 1 :]
        at = text.find(opening, at)
    return text


def _closing(text: str, at: int) -> int:
    """Return where the brace that opens at `at` closes; the last character where it never does."""
    depth = 0
    for mark in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, at):
        depth += {"{": 1, "}": -1}.get(mark.group(), 0)
        if depth == 0:
            return mark.start()
    return len(text) - 1


def _expand(text: str) -> str:
    """Replace each macro of `TEX_MACROS` once, from the left; macros inside arguments wait for the next call."""
    parts, done = [], 0
    for macro in TEX_NAME.finditer(text):
        if macro.start() < done or macro.group(1) not in TEX_MACROS:
            continue
        optional, n_arguments, becomes = TEX_MACROS[macro.group(1)]
        at, arguments = macro.end(), [""]
        if optional and text[at : at + 1] == "[":
            end = text.find("]", at)
            arguments, at = [text[at + 1 : end]], end + 1
        for _ in range(n_arguments):
            while text[at].isspace():
                at += 1
            end = _closing(text, at)
            arguments.append(text[at + 1 : end])
            at = end + 1
        parts += [text[done : macro.start()], becomes.format(*arguments)]
        done = at
    return "".join([*parts, text[done:]])
