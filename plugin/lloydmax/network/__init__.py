"""Facts about a network: its layers, graph, channels, batch norms, and what folds."""
