"""Run reports as files: written once a night, and dropped when they are old."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nightloom.corpus import Corpus
from nightloom.generations import STAMP
from nightloom.page import to_html
from nightloom.report import RunReport, to_markdown

SUFFIXES = (".md", ".html", ".json")


def keep_report(report: RunReport, corpus: Corpus) -> str:
    """Write a report to the folder of its corpus, and drop those that are older than reports_keep_days.

    Returns:
        Why it could not be written, which is also a warning of the report then; "" where it was. A night is worth no
        less for it.
    """
    try:
        save_report(report, corpus.reports)
        if corpus.reports_keep_days:
            drop_reports(corpus.name, corpus.reports, report.started - timedelta(days=corpus.reports_keep_days))
    except OSError as error:
        says = f"reports = {corpus.reports}: the report could not be written there: {error.strerror or error}"
        report.warnings.append(says)
        report.file = None
        return says
    return ""


def save_report(report: RunReport, folder: Path) -> None:
    """Write a report as Markdown, and as JSON and HTML beside it; the report then says where. Only HTML has charts.

    Raises:
        OSError: It cannot be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{report.corpus}_{report.started.astimezone(UTC).strftime(STAMP)}.md"
    report.file = str(file)
    page = to_html(to_markdown(report), f"{report.corpus}: {report.outcome}")
    file.write_text(to_markdown(report, charts=False), encoding="utf-8")
    file.with_suffix(".html").write_text(page, encoding="utf-8")
    file.with_suffix(".json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")


def drop_reports(corpus: str, folder: Path, before: datetime) -> None:
    """Delete the reports of a corpus that are of nights before a time; other files stay.

    Raises:
        OSError: One cannot be deleted.
    """
    named = re.compile(re.escape(corpus) + r"_(\d{8}t\d{6}z)")
    for file in folder.iterdir():
        stamp = named.fullmatch(file.stem)
        if stamp and file.suffix in SUFFIXES and stamp[1] < before.astimezone(UTC).strftime(STAMP):
            file.unlink(missing_ok=True)
