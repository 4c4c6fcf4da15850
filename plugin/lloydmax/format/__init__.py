"""The file: its document, how codes are packed, its sizes, and reading with distrust. README.md has the bytes."""
