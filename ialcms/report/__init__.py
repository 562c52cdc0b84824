"""The pages: the report of an evaluation, and the page of a separated video; each is one self-contained HTML file."""
