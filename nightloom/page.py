"""A page of HTML that holds all it needs: no script, no address, readable in the dark and in the light."""

import html

from markdown_it import MarkdownIt

PICTURE = "data:image/svg+xml;base64,"

# Whatever got through the rest: nothing is run, and nothing is fetched.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = """
:root { color-scheme: light dark; }
body {
    max-width: 60rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere;
    font: 1rem/1.5 system-ui, sans-serif; color: light-dark(#1b1b1b, #e6e6e6); background: light-dark(#ffffff, #161616);
}
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid light-dark(#d5d5d5, #3d3d3d); text-align: left; }
td { vertical-align: top; font-variant-numeric: tabular-nums; }
code { font-family: ui-monospace, monospace; font-size: .9em; }
img { max-width: 100%; height: auto; }
"""


class _Reader(MarkdownIt):
    """Its own check of addresses refuses every SVG, and takes the addresses of others."""

    def validateLink(self, url: str) -> bool:  # noqa: N802  the name is markdown-it's
        return url.startswith(PICTURE)


_READER = _Reader("commonmark", {"html": False}).enable("table").disable(["link", "autolink", "reference"])


def to_html(markdown: str, title: str) -> str:
    """A report as a page of its own.

    Tags in the Markdown are shown as text, links are not followed, and the only pictures are those that are SVG in the
    page itself (`nightloom.charts.as_data_uri`).
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{_READER.render(markdown)}</body>\n</html>\n"
    )
