"""Facts about a network: its layers, graph, channels, batch norms, what folds, and what it returns."""
