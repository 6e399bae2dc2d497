"""report.html: a search, its points and what they do on a chip in one file that needs no network."""

from .content import write_report as write_report
from .sections import Picture as Picture, Table as Table
