"""Other tools' tables and codes, as codebooks. The page: README.md."""
