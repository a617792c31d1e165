"""Results as HTML: tables in the style of all pages, and the frame in which a notebook shows them."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

# Of tables on every page and in every notebook. The page around them chooses --line, --strong and --faint.
TABLES = """
table { border-collapse: collapse; overflow-wrap: normal; font-size: .95em; font-variant-numeric: tabular-nums }
td, th { text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line) }
th { font-weight: 600 } thead th { border-bottom: 2px solid var(--strong); vertical-align: bottom }
.numbers tbody td, .numbers thead th + th { text-align: right; white-space: nowrap } .numbers th { white-space: nowrap }
.files tbody td:last-child, .files thead th:last-child { text-align: left }
tbody th { font-weight: 400 } td strong { font-weight: 700 } small { color: var(--faint); font-size: .85em }
.faint { color: var(--faint); font-size: .9em } .wide { overflow-x: auto }
"""
# Notebooks are light or dark as their program wants, whatever the system prefers: text keeps the colour that it has
# there, and lines are half transparent.
CELL = f"""<style>.img2img {{ --line: #8886; --strong: #888; --faint: inherit; max-width: 62rem;
  table {{ margin: .4rem 0; color: inherit }} tr {{ background: none !important }} tbody th {{ white-space: nowrap }}
  p {{ margin: .4rem 0 }} .faint, small {{ opacity: .75 }}
{TABLES.strip()} }}</style>"""
MOST_LISTED = 10  # entries of a list in a notebook or a terminal; an attribute has all


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), label: str = "") -> str:
    """Return a table that scrolls where the page is narrow. Cells are HTML; the first of a row is its title."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = (f'<tr><th scope="row">{first}</th>{"".join(f"<td>{c}</td>" for c in rest)}</tr>' for first, *rest in rows)
    name = f' role="region" aria-label="{escape(label)}"' if label else ""
    return (
        f'<div class="wide" tabindex="0"{name}><table>{f"<thead><tr>{top}</tr></thead>" if head else ""}'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def in_cell(title: str, *parts: str) -> str:
    """Return HTML as a notebook shows it, under a title, which is text."""
    text = f'{CELL}<div class="img2img"><p><strong>{escape(title)}</strong></p>{"".join(parts)}</div>'
    return text.encode(errors="backslashreplace").decode()  # file names need not be valid text


def facts(entries: Mapping[str, object]) -> str:
    """Return a table of names and values, which are text; those without a value are left out."""
    return table([[escape(name), escape(str(value))] for name, value in entries.items() if value not in ("", None)])


def listing(lines: Sequence[str]) -> str:
    """Return lines of text as a list, of which a long one is cut."""
    items = "".join(f"<li>{escape(line)}</li>" for line in shortened(lines))
    return f"<ul>{items}</ul>" if lines else ""


def shortened(lines: Sequence[str]) -> list[str]:
    """Return the first lines, and how many there are beyond."""
    more = [f"and {len(lines) - MOST_LISTED} more"] if len(lines) > MOST_LISTED else []
    return [*lines[:MOST_LISTED], *more]
