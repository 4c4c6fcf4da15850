"""Real trained networks of many tasks, each with inputs and its own measure: ``run.py`` compresses them all."""
